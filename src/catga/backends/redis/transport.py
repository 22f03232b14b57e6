"""`Transport` over Pub/Sub: a subject is a channel."""

import asyncio
import secrets
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from catga.abc import Outgoing, TransportListener
from catga.backends.redis.connect import takes_no_writes
from catga.backends.redis.link import RedisLink
from catga.errors import ClusterError

MAX_PAYLOAD = 1024 * 1024
"""Bytes, as a NATS server's default: what fits here fits there. The server itself would take more, and then cut
off subscribers that are 32 MB behind."""

SHARE_INTERVAL = 10.0
"""Seconds until a set of channels that was lost is there again."""


class RedisTransport:
    """`Transport` by PUBLISH and SUBSCRIBE. The count that PUBLISH returns tells that nobody listens.

    Pub/Sub has no queue groups. Who shares a subject has a channel of its own, named in a set; a script sends each
    message to a random one of them that listens. The set is filled again when the link is back, and now and then.
    """

    def __init__(self, link: RedisLink) -> None:
        self._link = link
        self._listener: TransportListener | None = None
        self._shared: dict[str, str] = {}  # subject → own channel
        self._sharing: asyncio.Task[None] | None = None
        self._unshared = ""  # why it gets no calls from queues
        self._exact = False
        self.refused = 0
        """Messages that the server did not accept."""

    @property
    def max_payload(self) -> int:
        return MAX_PAYLOAD

    @property
    def is_up(self) -> bool:
        return self._listener is not None and self._link.is_up

    @property
    def problem(self) -> str:
        """See `catga.abc.Diagnosing`."""
        return self._link.problem or self._unshared

    async def start(self, listener: TransportListener) -> None:
        self._link.on_link = self._on_link
        self._link.on_reply = self._on_reply
        await self._link.open()
        self._listener = listener

    async def subscribe(self, subject: str, *, shared: bool = False) -> None:
        if self._listener is None:
            raise ClusterError("the transport is closed")
        if shared:
            await self._join(subject, self._listener)
        else:
            await self._link.subscribe(subject, self._listener.on_message)

    async def _join(self, subject: str, listener: TransportListener) -> None:
        channel = self._shared.setdefault(subject, f"{subject}.{secrets.token_urlsafe(8)}")
        try:
            await self._link.subscribe(channel, listener.on_message)
            await self._link.persist(lambda: self._enter(subject, channel))
        except BaseException:  # who tries again takes another channel
            self._shared.pop(subject, None)
            self._link.post("SREM", subject, channel)
            self._link.forget(channel)
            raise
        if self._sharing is None:
            self._share()

    async def _enter(self, subject: str, channel: str) -> None:
        try:
            await self._link.call("SADD", subject, channel)
        except ClusterError as error:
            if not takes_no_writes(error):
                raise
            self._link.complaints.tell(f"this node gets no calls from queues yet: {error}")

    async def unsubscribe(self, subject: str) -> None:
        channel = self._shared.pop(subject, subject)
        if not self._shared:
            self._unshared = ""
        try:
            if channel != subject:
                with suppress(ClusterError):  # it is forgotten when it is next drawn
                    await self._link.call("SREM", subject, channel)
        finally:
            await self._link.unsubscribe(channel)

    def publish(self, messages: Sequence[Outgoing]) -> bool:
        return self._link.session.publish(messages, exact=self._exact)

    def count_exactly(self) -> None:
        """Count from now on, by a script, who subscribes to a channel itself. PUBLISH counts patterns, too."""
        self._exact = True

    async def drain(self) -> None:
        await self._link.session.drain()

    async def aclose(self) -> None:
        if self._listener is None:
            return
        if self._sharing is not None:
            self._sharing.cancel()
        await self._link.close()
        self._listener = None

    def _on_link(self, up: bool) -> None:
        if up and self._shared:
            self._share()
        if self._listener is not None:
            self._listener.on_link(up)

    def _share(self) -> None:
        if self._sharing is not None:
            self._sharing.cancel()
        self._sharing = asyncio.create_task(self._share_again(), name="catga-redis-share")

    async def _share_again(self) -> None:
        """Keep this node's channels in the sets, which a restart, an eviction or somebody may have emptied."""
        while True:
            try:
                for subject, channel in list(self._shared.items()):
                    if subject in self._shared:
                        await self._link.call("SADD", subject, channel)
                self._unshared = ""
            except ClusterError as error:
                is_forbidden = self._link.is_up and not takes_no_writes(error)
                self._unshared = f"this node gets no calls from queues: {error}" if is_forbidden else ""
            await asyncio.sleep(SHARE_INTERVAL)

    def _on_reply(self, message: Outgoing, reply: Any) -> None:
        listener = self._listener
        if isinstance(reply, Exception):
            self.refused += 1
            self._link.complaints.refused(f"the server refuses messages: {reply}")
            if listener is not None:
                listener.on_refused(message.subject, message.token, str(reply))
        elif reply == 0 and listener is not None:
            listener.on_undeliverable(message.subject, message.token)
