"""`NodeDiscovery` by pub/sub.

A node announces itself on ``{prefix}.nodes.{node_id}`` and hears the others on ``{prefix}.nodes.*``. Who
joins asks on ``{prefix}.sync``, and one member answers with its view; later, with what of it differs.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterable, Sequence

from nats.aio.msg import Msg

from catga.abc import Departure, Observation, RecordSigner
from catga.backends.nats.client import nobody
from catga.backends.nats.connection import Listening, NatsConnection
from catga.errors import InvalidMessageError
from catga.membership.exchange import decode_view, digest, encode_view
from catga.membership.records import Seal, decode_announcement, encode_departure, encode_record
from catga.node import LeftReason, NodeInfo, token

logger = logging.getLogger("catga.backends.nats")

SYNC_TIMEOUT = 1.0
"""Seconds that one member has to send its view."""
SYNC_TRIES = 3


class NatsNodeDiscovery:
    """`NodeDiscovery` by pub/sub, without a store: the members are the store."""

    def __init__(self, connection: NatsConnection, prefix: str, signer: RecordSigner | None = None) -> None:
        self._connection = connection
        self._prefix = prefix
        self._seal = Seal(signer, prefix)
        self._observe: Callable[[Observation], None] = lambda _: None
        self._recall: Callable[[], Iterable[Observation]] | None = tuple
        self._answering = False
        self._asked: dict[str, asyncio.Future[bool]] = {}  # our own questions, by where the answer goes
        self._subscriptions: list[Listening] = []
        self._complained = False
        self._open = False
        self.ignored = 0
        """Announcements that were no announcements."""

    async def register(self, node: NodeInfo) -> None:
        await self._announce(node.node_id, encode_record(node))

    async def unregister(self, node_id: str, incarnation: int, reason: LeftReason) -> None:
        await self._announce(node_id, encode_departure(Departure(node_id, incarnation, reason)))

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
            self._subscriptions.append(
                await self._connection.subscribe(f"{self._prefix}.sync", self._on_sync, queue="sync")
            )
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
            _settle(own, False)
        elif message.reply and self._recall is not None:
            await self._connection.caught_up()
            parts = encode_view(self._recall(), self._connection.client.max_payload, message.data)
            self._connection.publish([(message.reply, self._seal.close(part, message.reply), "") for part in parts])

    async def _ask(self) -> list[Observation] | None:
        """What one member's view has and this node's has not, and how old the rest is; [] if there is no member, None
        if there was no answer in time, or one that cannot be read."""
        known = [] if self._recall is None else list(self._recall())
        found: list[Observation] = []
        answered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        async def on_part(message: Msg) -> None:
            more, told = False, True
            if not nobody(message):
                try:
                    observations, more = decode_view(self._seal.open(message.data, message.subject), known)
                    found.extend(observations)
                except InvalidMessageError as error:
                    told = False
                    self._ignore(error)
            if not more:
                _settle(answered, told)

        box = f"{self._prefix}.reply.{secrets.token_urlsafe(16)}"
        self._asked[box] = answered
        try:
            subscription = await self._connection.subscribe(box, on_part)
            try:
                self._connection.publish([(f"{self._prefix}.sync", digest(known), box)])
                await asyncio.wait([answered], timeout=SYNC_TIMEOUT)
            finally:
                await self._connection.unsubscribe(subscription)
        finally:
            del self._asked[box]
        return found if found or (answered.done() and answered.result()) else None

    def _ignore(self, error: InvalidMessageError) -> None:
        self.ignored += 1
        if not self._complained:
            self._complained = True
            logger.warning("foreign data among the announcements is ignored", extra={"catga_error": str(error)})


def _settle(future: "asyncio.Future[bool]", value: bool) -> None:
    if not future.done():
        future.set_result(value)
