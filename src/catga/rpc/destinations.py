"""Where calls go: the lives of nodes, and queues; and what is under way to each of them."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import TypeAlias

import msgspec

from catga.errors import CatgaError
from catga.result import ResultMetadata
from catga.rpc.wire import Call, Reply

SENT_BATCHES = 1024
"""A destination's batches whose "nobody listened" can still be told apart."""


class Silent:
    """The node of a call does not answer, which may pass. The call goes on: `future` is its end."""

    __slots__ = ("future",)

    def __init__(self, future: "asyncio.Future[Outcome]") -> None:
        self.future = future


Outcome: TypeAlias = Reply | CatgaError | Silent
"""How a call ends, or what is known of it meanwhile."""


class Destination:
    """One incarnation of one node, as the caller knows it; or a queue, whose ``node_id`` is empty.

    Which node takes a call from a queue is not known until it answers: a queue is never pinged, silent or lost, and
    nothing that must reach the same node again (a repeat, a cancel) is sent to it.
    """

    __slots__ = (
        "epoch",
        "heard_at",
        "incarnation",
        "is_lost",
        "metadata",
        "newest",
        "node_id",
        "pending",
        "pinged_at",
        "sent",
        "subject",
    )

    def __init__(self, node_id: str, incarnation: int, subject: str, sent: int = SENT_BATCHES) -> None:
        self.node_id = node_id
        self.incarnation = incarnation
        self.metadata = ResultMetadata(node_id)
        """That of an answer to a first attempt."""
        self.subject = subject
        self.pending: dict[int, Pending] = {}  # in the order of the calls
        self.sent: deque[tuple[int, int, int]] = deque(maxlen=sent)  # token, first id, last id
        self.newest = 0  # id of the newest call that was sent: they leave in the order of their ids
        self.epoch: int | None = None
        self.heard_at = 0.0
        self.pinged_at: float | None = None
        self.is_lost = False
        """Whether the node is gone, or silent to another member too: then its calls move free of charge."""

    def __str__(self) -> str:
        return self.node_id or f"whoever took it from {self.subject}"


class Pending(msgspec.Struct, eq=False):
    """A call without its end yet. A Struct, as one is made for each call.

    Attributes:
        taker: is given the id of the node that answers.
        repeated: it was sent again over a link that is back.
        is_doubled: it was told that the node is silent, and goes to another node as well.
    """

    call: Call
    destination: Destination
    future: "asyncio.Future[Outcome]"
    deadline: float
    started: float
    idempotent: bool
    taker: list[str] | None = None
    repeated: bool = False
    is_doubled: bool = False

    @property
    def sent(self) -> bool:
        """Whether it has left."""
        return self.call.id <= self.destination.newest


class Destinations(dict[tuple[str, int], Destination]):
    """The lives of nodes by (node_id, incarnation), made as they are asked for.

    Args:
        inbox: the subject on which a node takes calls in a life of it.

    Attributes:
        by_subject: the same, and the queues.
    """

    def __init__(self, inbox: Callable[[str, int], str]) -> None:
        super().__init__()
        self._inbox = inbox
        self.by_subject: dict[str, Destination] = {}

    def __missing__(self, life: tuple[str, int]) -> Destination:
        made = Destination(*life, self._inbox(*life))
        self[life] = self.by_subject[made.subject] = made
        return made

    def queue(self, subject: str, sent: int) -> Destination:
        """The queue behind a shared subject, each of whose last `sent` calls is a batch."""
        found = self.by_subject.get(subject)
        if found is None:
            found = self.by_subject[subject] = Destination("", 0, subject, sent)
        return found

    def until(self, node_id: str, incarnation: int) -> Iterable[Destination]:
        """That life of a node, and those before it."""
        return [each for life, each in self.items() if life[0] == node_id and life[1] <= incarnation]

    def forget(self, life: Destination) -> None:
        """Nothing goes there any more."""
        del self[life.node_id, life.incarnation], self.by_subject[life.subject]
