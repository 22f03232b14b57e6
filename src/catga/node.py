"""What a cluster knows of a member, and how that changes."""

from enum import Enum
from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta


class NodeState(Enum):
    """alive: routed to. suspect: silent, used only if nobody else can serve. draining: finishing, takes no
    new work. left: gone."""

    ALIVE = "alive"
    SUSPECT = "suspect"
    DRAINING = "draining"
    LEFT = "left"


class NodeChangeType(Enum):
    """What happened to a member."""

    JOINED = "joined"
    UPDATED = "updated"
    LEFT = "left"


class LeftReason(Enum):
    """Why a member left.

    drained: it left by itself. expired: its lease ran out. crashed: nobody listens on its inbox any more. unreachable:
    several members do not hear it, on a bus that does not tell who listens; it may still run.
    """

    DRAINED = "drained"
    EXPIRED = "expired"
    CRASHED = "crashed"
    UNREACHABLE = "unreachable"


NodeId: TypeAlias = Annotated[str, Meta(min_length=1, max_length=128)]
NEWEST = 2**53 - 2**32
"""Incarnations from here on are taken from nobody."""
OUTGROWABLE = NEWEST - 2**31
"""A death in an incarnation from here on is believed from nobody and not remembered, or a forged one could not be
outgrown: only a node that had to outgrow a forged incarnation just below has such a one."""
WHOLE_LIFE = 2**53 - 1
"""A sequence beyond every record of an incarnation."""

Incarnation: TypeAlias = Annotated[int, Meta(ge=0, lt=NEWEST)]
Counter: TypeAlias = Annotated[int, Meta(ge=0, lt=2**53)]
Load: TypeAlias = Annotated[float, Meta(ge=0, le=1e9)]


class NodeInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One member as its observer sees it. Frozen: a change makes a new one.

    Attributes:
        node_id: unique in the cluster.
        endpoint: free for the user, e.g. the URL of the node's own HTTP server.
        service: nodes of one service share its events (each event goes to one of them).
        load: 0 idle, 1 full; may exceed 1 while requests queue.
        metadata: the user's, e.g. zone or version.
        handles: wire names of the messages it has handlers for, sorted.
        incarnation: grows with each restart of the node; the newer wins.
        sequence: grows with each change of the record within one incarnation.
        state: alive, suspect, draining or left.
        last_seen: the observer's ``time.monotonic()`` when it last had a sign of life; 0 in a record on
            the wire, as one machine's clock means nothing to another.
    """

    node_id: NodeId
    endpoint: str = ""
    service: Annotated[str, Meta(min_length=1, max_length=128)] = "default"
    load: Load = 0.0
    metadata: dict[str, str] = {}
    handles: tuple[str, ...] = ()
    incarnation: Incarnation = 0
    sequence: Counter = 0
    state: NodeState = NodeState.ALIVE
    last_seen: float = 0.0

    @property
    def is_online(self) -> bool:
        """Whether its lease is valid and it answers (a draining node still does)."""
        return self.state in (NodeState.ALIVE, NodeState.DRAINING)

    @property
    def version(self) -> tuple[int, int]:
        """(incarnation, sequence): of two records of one node the greater is the truth."""
        return (self.incarnation, self.sequence)


class NodeChangeEvent(msgspec.Struct, frozen=True):
    """One change of the view. ``version`` is the view's, and grows by one a change."""

    type: NodeChangeType
    node: NodeInfo
    version: int = 0
    reason: LeftReason | None = None


def token(node_id: str) -> str:
    """`node_id` as one token of a subject: letters, digits, ``-`` and ``_`` stay, the rest becomes ``=XX``.

    Two ids never share a token.
    """
    return "".join(
        char if (char.isascii() and char.isalnum()) or char in "-_" else "".join(f"={b:02X}" for b in char.encode())
        for char in node_id
    )
