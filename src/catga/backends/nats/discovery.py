"""`NodeDiscovery` by pub/sub.

A node announces itself on ``{prefix}.nodes.{node_id}`` and hears the others on ``{prefix}.nodes.*``. Who
joins asks on ``{prefix}.sync``, and one member answers with its view. Later it asks there and, in turn, a member
picked at random, on ``{prefix}.sync.{node_id}``, and is told what differs.
"""

import asyncio
import logging
import random
import secrets
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from nats.aio.msg import Msg

from catga.abc import Departure, Observation, RecordSigner, Sighting
from catga.backends.nats.client import nobody
from catga.backends.nats.connection import Listening, NatsConnection
from catga.errors import InvalidMessageError
from catga.membership.exchange import decode_view, digest, encode_view
from catga.membership.records import Seal, decode_announcement, encode_departure, encode_record
from catga.node import NodeInfo, token

logger = logging.getLogger("catga.backends.nats")

SYNC_TIMEOUT = 1.0
"""Seconds that one member has to send its view."""
SYNC_TRIES = 3


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
        self._subscriptions: list[Listening] = []
        self._complained = False
        self._open = False
        self.ignored = 0
        """Announcements that were no announcements."""

    async def register(self, node: NodeInfo) -> None:
        if not self._node_id:  # first of all: who knows of it may ask it
            self._node_id = node.node_id
            subject = self._subject_of(node.node_id)
            self._subscriptions.append(await self._connection.subscribe(subject, self._on_sync))
        await self._announce(node.node_id, encode_record(node))

    async def unregister(self, end: Departure) -> None:
        await self._announce(end.node_id, encode_departure(end))

    async def heartbeat(self, node: NodeInfo) -> None:
        """Nothing to refresh: probes keep the members in each other's views."""

    async def get_nodes(self) -> Sequence[Observation]:
        for _ in range(SYNC_TRIES):
            answer = await self._ask()
            if answer is not None:
                break
        else:
            answer = []
        if not self._answering and self._recall is not None:  # only who has asked may answer: see docs/architecture.md
            self._answering = True
            for observation in answer:  # before the first question comes, or its answer would be empty
                self._observe(observation)
            self._subscriptions.append(await self._connection.subscribe(self._group, self._on_sync, queue="sync"))
        return answer

    async def watch(
        self, observe: Callable[[Observation], None], recall: Callable[[], Iterable[Observation]] | None
    ) -> None:
        await self._connection.open()
        self._open = True
        self._observe, self._recall = observe, recall
        self._subscriptions.append(await self._connection.subscribe(f"{self._prefix}.nodes.*", self._on_announcement))

    async def aclose(self) -> None:
        if not self._open:
            return
        self._open = False
        await self._connection.close(self._subscriptions)

    async def _announce(self, node_id: str, data: bytes) -> None:
        self._connection.publish([(f"{self._prefix}.nodes.{token(node_id)}", self._seal.close(data), "")])
        await self._connection.flush()

    async def _on_announcement(self, message: Msg) -> None:
        try:
            self._observe(decode_announcement(self._seal.open(message.data)))
        except InvalidMessageError as error:
            self._ignore(error)

    async def _on_sync(self, message: Msg) -> None:
        own = self._asked.get(message.reply)
        if own is not None:  # the group gave it to the one member who has nothing to tell
            own.settle(False)
        elif message.reply and self._recall is not None:
            await self._connection.caught_up()
            parts = encode_view(self._recall(), self._connection.client.max_payload, message.data)
            self._connection.publish([(message.reply, self._seal.close(part, message.reply), "") for part in parts])

    async def _ask(self) -> list[Observation] | None:
        """The answer to one question, as `_Question.answer` gives it."""
        known = [] if self._recall is None else list(self._recall())
        question = _Question(self._whom(known), known)
        box = f"{self._prefix}.reply.{secrets.token_urlsafe(16)}"
        self._asked[box] = question
        try:
            subscription = await self._connection.subscribe(box, partial(self._on_part, question))
            try:
                self._connection.publish([(question.subject, digest(known), box)])
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

    def _whom(self, known: Iterable[Observation]) -> str:
        """Where the next question goes. While this node joins, to the group: only who is in it can answer for all.
        Later, in turn, to a member picked at random, too: a server prefers its own clients in a group, so on a leaf
        node that may be this node alone."""
        self._picks = self._answering and not self._picks
        others = [each.node.node_id for each in known if isinstance(each, Sighting)] if self._picks else []
        if self._node_id in others:
            others.remove(self._node_id)
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
