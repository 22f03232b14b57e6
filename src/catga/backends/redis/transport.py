"""`Transport` over Pub/Sub: a subject is a channel."""

import logging
from collections.abc import Sequence
from typing import Any

from catga.abc import Outgoing, TransportListener
from catga.backends.redis.link import RedisLink
from catga.errors import ClusterError

logger = logging.getLogger("catga.backends.redis")

MAX_PAYLOAD = 1024 * 1024
"""Bytes, as a NATS server's default: what fits here fits there. The server itself would take more, and then cut
off subscribers that are 32 MB behind."""


class RedisTransport:
    """`Transport` by PUBLISH and SUBSCRIBE. The count that PUBLISH returns tells that nobody listens."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link
        self._listener: TransportListener | None = None
        self.refused = 0
        """Messages that the server did not accept."""

    @property
    def max_payload(self) -> int:
        return MAX_PAYLOAD

    @property
    def is_up(self) -> bool:
        return self._listener is not None and self._link.is_up

    async def start(self, listener: TransportListener) -> None:
        self._link.on_link = listener.on_link
        self._link.on_reply = self._on_reply
        await self._link.open()
        self._listener = listener

    async def subscribe(self, subject: str) -> None:
        if self._listener is None:
            raise ClusterError("the transport is closed")
        await self._link.subscribe(subject, self._listener.on_message)

    async def unsubscribe(self, subject: str) -> None:
        await self._link.unsubscribe(subject)

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        await self._link.session.publish(messages)

    async def aclose(self) -> None:
        if self._listener is None:
            return
        await self._link.close()
        self._listener = None

    def _on_reply(self, message: Outgoing, reply: Any) -> None:
        if reply == 0:
            if self._listener is not None:
                self._listener.on_undeliverable(message.subject, message.token)
        elif isinstance(reply, Exception):
            self.refused += 1
            if self.refused == 1:
                logger.error("the server refuses messages: %s", reply)
