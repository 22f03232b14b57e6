"""Subscriptions that outlive the client they were made with, and what the server forbids."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Protocol

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from catga.backends.nats.direct import OnPayload
from catga.errors import ClusterError

MEND, MAX_MEND = 0.1, 1.0
"""Seconds before an attempt to renew what the server ended: each pause is twice the last one."""

OnMessage = Callable[[Msg], Awaitable[None]]


class Listening:
    """A subscription that outlives the client it was made with. ``on_payload``, if it has one, may be called instead
    of ``on_message``. While the server refuses one that is ``vital`` the link counts as down."""

    def __init__(
        self, subject: str, on_message: OnMessage, queue: str, on_payload: OnPayload | None, vital: bool
    ) -> None:
        self.subject = subject
        self.on_message = on_message
        self.queue = queue
        self.on_payload = on_payload
        self.vital = vital
        self.subscription: Subscription | None = None
        self.is_made = False  # once the server has confirmed it
        self.refused = ""  # what the server said at the last attempt
        self.problem = ""  # the same, until it is subscribed again


class Renewing(Protocol):
    """What `Renewal` needs of the connection."""

    listenings: list[Listening]

    @property
    def is_up(self) -> bool: ...

    async def listen(self, listening: Listening, /) -> None: ...
    async def flush(self) -> None: ...
    def forget(self, subscription: Any, /) -> None: ...
    def tell(self, up: bool, /) -> None: ...


class Renewal:
    """Renews the subscriptions that the server ended, until it lets them be."""

    def __init__(self, connection: Renewing) -> None:
        self._connection = connection
        self._mending: asyncio.Task[None] | None = None

    @property
    def problem(self) -> str:
        """What the server forbids; empty if nothing."""
        return next((each.problem for each in self._connection.listenings if each.problem), "")

    @property
    def is_whole(self) -> bool:
        """Whether all subscriptions are there without which the link is of no use."""
        return not any(each.problem and each.vital for each in self._connection.listenings)

    def lost(self, listening: Listening) -> None:
        """The server has ended a subscription."""
        listening.problem = listening.refused
        if listening.vital:
            self._connection.tell(False)
        if self._mending is None or self._mending.done():
            self._mending = asyncio.create_task(self._mend(), name="catga-nats-mend")

    def close(self) -> None:
        """Renew nothing any more."""
        if self._mending is not None:
            self._mending.cancel()

    async def _mend(self) -> None:
        pause = MEND
        while lost := [each for each in self._connection.listenings if each.problem]:
            await asyncio.sleep(pause)
            pause = min(2 * pause, MAX_MEND)
            for listening in lost:
                with suppress(ClusterError):
                    await self._renew(listening)
        if self._connection.is_up:  # what came meanwhile may have been missed: as after a lost connection
            self._connection.tell(False)
            self._connection.tell(True)

    async def _renew(self, listening: Listening) -> None:
        former: Any = listening.subscription
        if not self._connection.is_up or listening not in self._connection.listenings or former is None:
            return
        former._stop_processing()
        former._conn._remove_sub(former._id)
        self._connection.forget(former)  # should the server still have it
        listening.refused = ""
        await self._connection.listen(listening)
        await self._connection.flush()
        if not listening.refused:
            listening.problem = ""
