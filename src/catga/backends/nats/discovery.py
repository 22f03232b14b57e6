"""`NodeDiscovery` by pub/sub.

A node announces itself on ``{prefix}.nodes.{node_id}`` and hears the others on ``{prefix}.nodes.*``. Who
joins asks on ``{prefix}.sync``, and one member answers with its view. Later it asks there and, in turn, a member
picked at random, on ``{prefix}.sync.{node_id}``, and is told what differs.

Whoever may subscribe can take questions from the group and answer nothing, or lies. So three members introduce
themselves to each node that joins: they send their records to ``{prefix}.sync.{node_id}``, without a reply subject.
And it soon asks one that it knows by name.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from zlib import crc32

from nats.aio.msg import Msg

from catga.abc import Departure, Observation, RecordSigner, Sighting
from catga.backends.nats.client import nobody
from catga.backends.nats.connection import NatsConnection
from catga.backends.nats.listening import Listening
from catga.backends.nats.quota import Quota
from catga.errors import ClusterError, InvalidMessageError
from catga.membership.exchange import decode_view, digest, encode_view
from catga.membership.records import Seal, decode_announcement, encode_departure, encode_record
from catga.node import NodeInfo, token
from catga.rpc.subjects import check_reply_box, reply_box

logger = logging.getLogger("catga.backends.nats")

SYNC_TIMEOUT = 1.0
"""Seconds that one member has to send its view."""
SYNC_TRIES = 3
INTRODUCTIONS = 3
"""Members that introduce themselves to one that joins."""
FAR = 4
"""A member so many times further behind than these in the order is none of them, as good as certain."""
FOLLOW_UP = (0.5, 1.0, 2.0, 4.0)
"""Seconds before each further question of a node that has joined, until one is answered with something."""
NOTHING = b'{"nodes":[]}'
"""An answer to a question that is not signed: it shows that there is a key, and nothing else."""
MAX_LIVES = 10_000
"""Lives of nodes of which this node remembers that it heard them announced."""


class NatsNodeDiscovery:
    """`NodeDiscovery` by pub/sub, without a store: the members are the store."""

    def __init__(self, connection: NatsConnection, prefix: str, signer: RecordSigner | None = None) -> None:
        self._connection = connection
        self._prefix = prefix
        self._group = f"{prefix}.sync"
        self._node_id = ""  # this node's own, once it is announced
        self._seal = Seal(signer, prefix)
        self._observe: Callable[[Observation], None] = lambda _: None
        self._recall: Callable[[], Iterable[Observation]] | None = tuple
        self._answering = False
        self._picks = False  # whether the last question was to a member, not to the group
        self._asked: dict[str, _Question] = {}  # our own questions, by where the answer goes
        self._quota: Quota | None = None
        self._lives: dict[str, int] = {}  # announced: node id → incarnation
        self._mine: NodeInfo | None = None  # this node's record, once it is announced
        self._following: asyncio.Task[None] | None = None
        self._subscriptions: list[Listening] = []
        self._complained = False
        self._open = False
        self.ignored = 0
        """Announcements that were no announcements."""

    async def register(self, node: NodeInfo) -> None:
        await self._connection.persist(lambda: self._register(node))

    async def _register(self, node: NodeInfo) -> None:
        if not self._node_id:  # first of all: who knows of it may ask it
            subject = self._subject_of(node.node_id)
            self._subscriptions.append(await self._connection.subscribe(subject, self._on_sync))
            self._node_id = node.node_id
        await self._announce(node.node_id, encode_record(node))
        self._mine = node

    async def unregister(self, end: Departure) -> None:
        if end.node_id == self._node_id:
            self._mine = None
        await self._announce(end.node_id, encode_departure(end))

    async def heartbeat(self, node: NodeInfo) -> None:
        """Nothing to refresh: probes keep the members in each other's views."""

    async def get_nodes(self) -> Sequence[Observation]:
        answer = await self._connection.persist(self._ask_until_told)
        if not self._answering and self._recall is not None:  # only who has asked may answer: see docs/architecture.md
            for observation in answer:  # before the first question comes, or its answer would be empty
                self._observe(observation)
            await self._connection.persist(self._answer_others)
        if self._following is None:
            self._following = asyncio.create_task(self._follow_up(), name="catga-nats-follow-up")
        return answer

    async def _ask_until_told(self) -> list[Observation]:
        for _ in range(SYNC_TRIES):
            answer = await self._ask()
            if answer is not None:
                return answer
        return []

    async def _answer_others(self) -> None:
        self._subscriptions.append(await self._connection.subscribe(self._group, self._on_sync, queue="sync"))
        self._answering = True

    async def _follow_up(self) -> None:
        """Ask one more member, by its name: who took the first question from the group may have been a stranger."""
        for pause in FOLLOW_UP:
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            with suppress(ClusterError):
                answer = await self._ask(by_name=True)
                for observation in answer or ():
                    self._observe(observation)
                if answer:
                    return

    async def watch(
        self, observe: Callable[[Observation], None], recall: Callable[[], Iterable[Observation]] | None
    ) -> None:
        await self._connection.open()
        self._open = True
        self._observe, self._recall = observe, recall
        self._quota = Quota()
        subject = f"{self._prefix}.nodes.*"
        subscribing = self._connection.persist(lambda: self._connection.subscribe(subject, self._on_announcement))
        self._subscriptions.append(await subscribing)

    async def aclose(self) -> None:
        if not self._open:
            return
        self._open = False
        if self._following is not None:
            self._following.cancel()
        await self._connection.close(self._subscriptions)

    async def _announce(self, node_id: str, data: bytes) -> None:
        await self._connection.confirm([(f"{self._prefix}.nodes.{token(node_id)}", self._seal.close(data), "")])

    async def _on_announcement(self, message: Msg) -> None:
        observation = self._opened(message.data)
        if observation is None:
            return
        self._observe(observation)
        if isinstance(observation, Departure):
            self._lives.pop(observation.node_id, None)
        elif self._is_new(observation.node):
            self._introduce_to(observation.node)

    def _opened(self, data: bytes) -> Observation | None:
        try:
            return decode_announcement(self._seal.open(data))
        except InvalidMessageError as error:
            self._ignore(error)
            return None

    def _is_new(self, node: NodeInfo) -> bool:
        """Whether this life of a node is announced for the first time, as far as this node heard."""
        if len(self._lives) >= MAX_LIVES:
            self._lives.clear()
        former, self._lives[node.node_id] = self._lives.get(node.node_id, -1), node.incarnation
        return former < node.incarnation and node.node_id != self._node_id

    def _introduce_to(self, node: NodeInfo) -> None:
        """Tell a node that joins of this one, if it is one of the few members that do."""
        if self._mine is None or not self._is_introducer(node.node_id):
            return
        with suppress(ClusterError):
            record = self._seal.close(encode_record(self._mine))
            self._connection.publish([(self._subject_of(node.node_id), record, "")])

    def _is_introducer(self, node_id: str) -> bool:
        """Whether this is one of the members that come first in an order of that node's own."""
        mine = crc32(f"{node_id} {self._node_id}".encode())
        if self._recall is None or mine * len(self._lives) > FAR * INTRODUCTIONS << 32:  # mostly, without a look at all
            return False
        members = {each.node.node_id for each in self._recall() if isinstance(each, Sighting)} - {node_id}
        return sum(crc32(f"{node_id} {each}".encode()) < mine for each in members) < INTRODUCTIONS

    async def _on_sync(self, message: Msg) -> None:
        own = self._asked.get(message.reply)
        if own is not None:  # the group gave it to the one member who has nothing to tell
            own.settle(False)
        elif message.reply:
            await self._answer(message)
        elif (observation := self._opened(message.data)) is not None:  # another member introduces itself
            self._observe(observation)

    async def _answer(self, question: Msg) -> None:
        """Tell who asks what this node knows; drop what is no question of the cluster's, or comes too fast."""
        if self._recall is None or self._quota is None:
            return
        try:
            check_reply_box(self._prefix, question.reply)
        except InvalidMessageError as error:
            self._ignore(error)
            return
        if not self._quota.admit():
            return
        await self._connection.caught_up()
        parts: Iterable[bytes] = [NOTHING]
        try:
            known = self._seal.open_bytes(question.data, question.reply)
            parts = encode_view(self._recall(), self._connection.client.max_payload, known)
        except InvalidMessageError as error:
            self._ignore(error)
        answer = [(question.reply, self._seal.close(part, question.reply), "") for part in parts]
        self._quota.spend(sum(len(part) for _, part, _ in answer))
        self._connection.publish(answer)

    async def _ask(self, *, by_name: bool = False) -> list[Observation] | None:
        """The answer to one question, as `_Question.answer` gives it."""
        known = [] if self._recall is None else list(self._recall())
        question = _Question(self._whom(known, by_name=by_name), known)
        box = reply_box(self._prefix)
        self._asked[box] = question
        try:
            subscription = await self._connection.subscribe(box, partial(self._on_part, question))
            try:
                data = self._seal.close_bytes(digest(known), box)
                await self._connection.confirm([(question.subject, data, box)])
                return await question.answer()
            finally:
                await self._connection.unsubscribe(subscription)
        finally:
            del self._asked[box]

    async def _on_part(self, question: "_Question", message: Msg) -> None:
        more = told = False
        if nobody(message):
            told = question.subject == self._group  # else the member that was picked has left
        else:
            try:
                part = self._seal.open(message.data, message.subject)
                observations, more = decode_view(part, question.known)
                question.found.extend(observations)
                told = True
            except InvalidMessageError as error:
                self._ignore(error)
        if not more:
            question.settle(told)

    def _whom(self, known: Iterable[Observation], *, by_name: bool) -> str:
        """Where the next question goes. While this node joins, to the group: only who is in it can answer for all.
        Later, in turn, to a member picked at random, too: a server prefers its own clients in a group, so on a leaf
        node that may be this node alone."""
        if not by_name:
            by_name = self._picks = self._answering and not self._picks
        members = [each.node.node_id for each in known if isinstance(each, Sighting)] if by_name else []
        others = [node_id for node_id in members if node_id != self._node_id]
        return self._subject_of(random.choice(others)) if others else self._group

    def _subject_of(self, node_id: str) -> str:
        return f"{self._group}.{token(node_id)}"

    def _ignore(self, error: InvalidMessageError) -> None:
        self.ignored += 1
        if not self._complained:
            self._complained = True
            logger.warning("foreign data among the announcements is ignored", extra={"catga_error": str(error)})


class _Question:
    """A question to the members, and what came in answer.

    Args:
        subject: where it goes.
        known: what this node's own view has.
    """

    def __init__(self, subject: str, known: Sequence[Observation]) -> None:
        self.subject = subject
        self.known = known
        self.found: list[Observation] = []
        self._answered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def settle(self, told: bool) -> None:
        """No more comes: it was answered, or was in vain."""
        if not self._answered.done():
            self._answered.set_result(told)

    async def answer(self) -> list[Observation] | None:
        """What one member's view has and this node's has not, and how old the rest is; [] if there is no member, None
        if there was no answer in time, or one that cannot be read."""
        await asyncio.wait([self._answered], timeout=SYNC_TIMEOUT)
        told = self._answered.done() and self._answered.result()
        return self.found if self.found or told else None
