"""Frames on their way out: one list a destination, one broker message a list and event-loop turn.

Whoever has a frame to send puts it here and goes on. The pump, one task, is woken by the first frame of a
turn and runs when the turn is over: it takes all that came together, so concurrent calls share the cost of
a message and a lone call waits for nothing. While the broker's buffer is full the pump waits, and frames
gather into larger batches, up to a bound.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence

from catga.abc import Outgoing, Transport
from catga.errors import CatgaError, ClusterError, Execution, InvalidMessageError, OverloadedError
from catga.rpc.wire import Batch, Frame, encode_batch

logger = logging.getLogger("catga.rpc")

MAX_BATCH = 32 * 1024
"""Bytes of a batch of several frames: larger messages outgrow the buffers of client and broker, and cost more."""

Wrap = Callable[[list[Frame]], Batch]


class Outbox:
    """The frames that wait, and the pump that sends them.

    Args:
        wrap: makes a batch of frames, with this node's header.
        on_sent: (subject, token, frames) of each batch before it leaves.
        on_failed: (subject, frames, error) of each batch that did not leave, or is too large to.
        seal: makes of (subject, a batch's bytes) what goes over the bus (signs it).
        limit: frames that may wait.
    """

    def __init__(
        self,
        transport: Transport,
        wrap: Wrap,
        *,
        on_sent: Callable[[str, int, Sequence[Frame]], None],
        on_failed: Callable[[str, Sequence[Frame], CatgaError], None],
        seal: Callable[[str, bytes], bytes] | None = None,
        limit: int = 100_000,
    ) -> None:
        self._transport = transport
        self._wrap = wrap
        self._on_sent = on_sent
        self._on_failed = on_failed
        self._seal = seal
        self._limit = limit
        self.shared: set[str] = set()
        """Subjects whose messages are shared among their listeners: each frame is a message of its own there."""
        self._queues: dict[str, list[Frame]] = {}
        self._size = 0
        self._sending = 0
        self._token = 0
        self._wake: asyncio.Future[None] | None = None
        self._idle: asyncio.Future[None] | None = None

    @property
    def batches(self) -> int:
        """Broker messages made so far."""
        return self._token

    def put(self, subject: str, frame: Frame) -> None:
        """Send `frame` to `subject` at the end of this turn.

        Raises:
            OverloadedError: too many frames wait already.
        """
        if self._size >= self._limit:
            raise OverloadedError(f"{self._size} frames wait to be sent: the broker does not keep up")
        self._size += 1
        queue = self._queues.get(subject)
        if queue is None:
            self._queues[subject] = [frame]
            if self._wake is not None and not self._wake.done():
                self._wake.set_result(None)
        else:
            queue.append(frame)

    async def pump(self) -> None:
        """Send what is put, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            if not self._queues:
                if self._idle is not None and not self._idle.done():
                    self._idle.set_result(None)
                self._wake = loop.create_future()
                await self._wake
            queues, self._queues = self._queues, {}
            self._sending, self._size = self._size, 0
            await self._send(queues)
            self._sending = 0

    async def drained(self) -> None:
        """Return once nothing waits any more."""
        while self._queues or self._sending:
            if self._idle is None or self._idle.done():
                self._idle = asyncio.get_running_loop().create_future()
            await self._idle

    async def _send(self, queues: dict[str, list[Frame]]) -> None:
        """Send these frames; those that did not leave are told. The pump outlives whatever a transport raises."""
        batches = [batch for subject, frames in queues.items() for batch in self._batches(subject, frames)]
        try:
            await self._transport.publish([outgoing for outgoing, _ in batches])
        except Exception as error:
            if not isinstance(error, ClusterError):
                logger.exception("the transport failed in a way of its own")
                error = ClusterError(f"the transport failed: {error!r}")
                error.execution = Execution.MAYBE
            for outgoing, frames in batches:
                self._on_failed(outgoing.subject, frames, error)

    def _batches(self, subject: str, frames: Sequence[Frame]) -> Iterator[tuple[Outgoing, Sequence[Frame]]]:
        """`frames` as one broker message, or as several where one would be too large, or where they are shared."""
        if subject in self.shared and len(frames) > 1:
            for frame in frames:
                yield from self._batches(subject, [frame])
            return
        try:
            data = encode_batch(self._wrap(list(frames)))
        except (ValueError, TypeError, OverflowError, RecursionError) as failed:
            yield from self._without_the_bad(subject, frames, failed)
            return
        if self._seal is not None:
            data = self._seal(subject, data)
        limit = self._transport.max_payload
        if len(data) <= (limit if len(frames) == 1 else min(limit, MAX_BATCH)):
            self._token += 1
            self._on_sent(subject, self._token, frames)
            yield Outgoing(subject, data, self._token, subject in self.shared), frames
        elif len(frames) > 1:
            half = len(frames) // 2
            yield from self._batches(subject, frames[:half])
            yield from self._batches(subject, frames[half:])
        else:
            error = InvalidMessageError(f"a message of {len(data)} bytes, the broker's limit is {limit}")
            self._on_failed(subject, frames, error)

    def _without_the_bad(
        self, subject: str, frames: Sequence[Frame], error: Exception
    ) -> Iterator[tuple[Outgoing, Sequence[Frame]]]:
        """A header or text that cannot be encoded (a lone surrogate) fails its own frame, and no other."""
        if len(frames) > 1:
            half = len(frames) // 2
            yield from self._batches(subject, frames[:half])
            yield from self._batches(subject, frames[half:])
        else:
            self._on_failed(subject, frames, InvalidMessageError(f"a message cannot be encoded: {error}"))
