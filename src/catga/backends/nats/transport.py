"""`Transport` by core NATS."""

import secrets
from collections.abc import Sequence

from nats.aio.msg import Msg

from catga.abc import Outgoing, TransportListener
from catga.backends.nats.client import nobody
from catga.backends.nats.connection import NatsConnection
from catga.backends.nats.listening import Listening
from catga.rpc.subjects import reply_box

QUEUE_GROUP = "catga"


class NatsTransport:
    """`Transport` by core NATS. The server's "no responders" tells that nobody listens."""

    bounces_can_be_forged = True  # by whoever sees the subject that they come to

    def __init__(self, connection: NatsConnection, prefix: str) -> None:
        self._connection = connection
        self._prefix = prefix
        self._max_payload = 0
        self._bounce = f"{prefix}.bounce.{secrets.token_urlsafe(16)}"
        self._listener: TransportListener | None = None
        self._subscriptions: dict[str, Listening] = {}

    @property
    def max_payload(self) -> int:
        if self._connection.is_up:  # else as it was: it is asked for without a link, too
            self._max_payload = self._connection.client.max_payload
        return self._max_payload

    @property
    def is_up(self) -> bool:
        return self._connection.is_up

    @property
    def problem(self) -> str:
        """See `catga.abc.Diagnosing`."""
        return self._connection.problem

    async def start(self, listener: TransportListener) -> None:
        await self._connection.open()
        self._listener = listener
        self._connection.on_link.append(listener.on_link)
        self._connection.on_closed.append(listener.on_closed)
        self._connection.refusals.listener = listener
        self._subscriptions[""] = await self._connection.persist(self._subscribe_to_bounces)
        # Nobody is there: it shows whether this node may answer at all.
        await self._connection.persist(lambda: self._connection.confirm([(reply_box(self._prefix), b"", "")]))

    async def _subscribe_to_bounces(self) -> Listening:
        return await self._connection.subscribe(f"{self._bounce}.>", self._on_bounce)

    async def subscribe(self, subject: str, *, shared: bool = False) -> None:
        queue = QUEUE_GROUP if shared else ""
        subscribing = self._connection.persist(lambda: self._connection.receive(subject, self._on_payload, queue))
        self._subscriptions[subject] = await subscribing

    async def unsubscribe(self, subject: str) -> None:
        subscription = self._subscriptions.pop(subject, None)
        if subscription is not None:
            await self._connection.unsubscribe(subscription)

    def publish(self, messages: Sequence[Outgoing]) -> bool:
        bounce = self._bounce
        has_room = self._connection.publish(
            [(each.subject, each.payload, f"{bounce}.{each.token}.{each.subject}") for each in messages]
        )
        self._connection.refusals.sent(messages)
        return has_room

    async def drain(self) -> None:
        await self._connection.drain()

    async def aclose(self) -> None:
        if self._listener is None:
            return
        self._listener = self._connection.refusals.listener = None
        await self._connection.close(self._subscriptions.values())

    def _on_payload(self, payload: bytes) -> None:
        if self._listener is not None:
            self._listener.on_message(payload)

    async def _on_bounce(self, message: Msg) -> None:
        if self._listener is not None and nobody(message):
            number, _, subject = message.subject.removeprefix(f"{self._bounce}.").partition(".")
            self._listener.on_undeliverable(subject, int(number))
