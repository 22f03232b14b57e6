"""Frames on their way out: one list a destination, one broker message a list.

Whoever has a frame to send puts it here and goes on. What was put in one turn of the event loop leaves
together at its end, so that concurrent calls share the cost of a message and a lone call waits for nothing.
A list that has grown to a full batch before leaves at once: the other side begins with it while this one goes on.
While the broker's buffer is full nothing leaves, and frames gather into larger batches, up to a bound.
"""

import asyncio
import contextvars
import logging
import math
from collections import deque
from collections.abc import Callable
from time import perf_counter

from catga.abc import Outgoing, Transport
from catga.errors import CatgaError, ClusterError, Execution, OverloadedError, refused
from catga.rpc.wire import OVERHEAD, SMALL, Batch, Call, Frame, Reply, encode_batch

logger = logging.getLogger("catga.rpc")

FULL = 128
"""Frames to one subject that leave without waiting for the end of the turn: the cost of a message is small for each of
so many, and the other side begins with them while this one goes on."""
MAX_BATCH = 64 * 1024
"""Bytes of a batch of several frames: larger messages outgrow the buffers of client and broker, and cost more."""

LONG = 0.01
"""Seconds of a turn from which on it counts how long each frame has waited in it."""
FRAME = 64
"""Bytes of a frame besides its body, about."""
GRAIN = 0.01
"""Seconds within which it is not told apart when batches left."""
MARKS = 1024
"""So many times at which batches left are remembered."""

Wrap = Callable[[list[Frame]], Batch]


class Outbox:
    """The frames that wait.

    Args:
        wrap: makes a batch of frames, with this node's header.
        on_sent: (subject, token, frames) of each batch before it leaves.
        on_failed: (subject, frames, error) of each batch that did not leave, or is too large to.
        is_wanted: whether a frame should still leave; asked if `has_unwanted`.
        on_waited: told of frames that waited for the broker's buffer, or through a long turn, before they leave.
        seal: makes of (subject, a batch's bytes) what goes over the bus (signs it).
        limit: frames that may wait.
    """

    def __init__(
        self,
        transport: Transport,
        wrap: Wrap,
        *,
        on_sent: Callable[[str, int, list[Frame]], None],
        on_failed: Callable[[str, list[Frame], CatgaError], None],
        is_wanted: Callable[[Frame], bool] = lambda _: True,
        on_waited: Callable[[list[Frame]], None] = lambda _: None,
        seal: Callable[[str, bytes], bytes] | None = None,
        limit: int = 100_000,
    ) -> None:
        self._transport = transport
        self._wrap = wrap
        self._on_sent = on_sent
        self._on_failed = on_failed
        self._is_wanted = is_wanted
        self._on_waited = on_waited
        self._seal = seal
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()  # what is delivered in a turn of ours is in no sender's context
        self.shared: set[str] = set()
        """Subjects whose messages are shared among their listeners: each frame is a message of its own there."""
        self.has_unwanted = False
        """Set it when a frame that may still wait here should not leave any more."""
        self.turn = 0
        """Counts the turns of the loop in which something could leave."""
        self._queues: dict[str, list[Frame]] = {}
        self._size = 0
        self._token = 0
        self._since = 0.0  # when the first frame of this turn was put
        self._marks = deque([(0, -math.inf)], MARKS)  # token, when: batches with a higher one left after that
        self._is_due = False  # the end of this turn flushes
        self._draining: asyncio.Task[None] | None = None  # while the broker's buffer is full
        self._idle: asyncio.Future[None] | None = None

    @property
    def batches(self) -> int:
        """Broker messages made so far."""
        return self._token

    def age(self, token: int) -> float:
        """Seconds since that batch left, or somewhat more; infinite if that is not known any more."""
        return perf_counter() - next((at for number, at in reversed(self._marks) if number < token), -math.inf)

    def put(self, subject: str, frame: Frame, full: int = FULL) -> None:
        """Send `frame` to `subject` at the end of this turn, or as soon as `full` frames wait for it.

        Raises:
            OverloadedError: too many frames wait already.
        """
        if self._size >= self._limit:
            raise OverloadedError(f"{self._size} frames wait to be sent: the broker does not keep up")
        self._size += 1
        frames = self._queues.get(subject)
        if frames is None:
            self._queues[subject] = [frame]
            self.flush_soon()
        else:
            frames.append(frame)
            if len(frames) >= full and self._draining is None:
                del self._queues[subject]
                self._size -= len(frames)
                if perf_counter() - self._since > LONG:
                    self._on_waited(frames)
                self._send({subject: frames})

    def flush_soon(self) -> None:
        """Send what waits behind everything that the loop has ready now. Said before something that will put frames,
        it saves a turn."""
        if not self._is_due:
            self._is_due = True
            self._since = perf_counter()
            self._loop.call_soon(self._flush, context=self._context)

    async def drained(self) -> None:
        """Return once nothing waits any more."""
        while self._is_busy:
            if self._idle is None or self._idle.done():
                self._idle = self._loop.create_future()
            await asyncio.shield(self._idle)  # others wait for it, too

    def link_changed(self) -> None:
        """The buffer that was full is gone with its connection."""
        if self._draining is not None:
            self._draining.cancel()
            self._go_on()

    def close(self) -> None:
        """Wait for nothing any more."""
        self._queues.clear()
        self.link_changed()

    @property
    def _is_busy(self) -> bool:
        return bool(self._queues) or self._draining is not None

    def _flush(self) -> None:
        """Send what waits now, unless the broker's buffer is full."""
        self._is_due = False
        self.turn += 1
        if self._queues and self._draining is None:
            if perf_counter() - self._since > LONG:
                self._count_waiting()
            if self._since - self._marks[-1][1] > GRAIN:
                self._marks.append((self._token, self._since))
            queues, self._queues = self._queues, {}
            self._size = 0
            self._send(queues)
            self.has_unwanted = bool(self._queues)  # put while these were sent
        if self._idle is not None and not self._is_busy and not self._idle.done():
            self._idle.set_result(None)

    async def _drain(self) -> None:
        try:
            await self._transport.drain()
        except ClusterError:  # the link is down: what waits is told
            pass
        except Exception:
            logger.exception("the transport failed in a way of its own")
        self._go_on()

    def _go_on(self) -> None:
        """There is room again, or no link: what waited leaves, or is told."""
        self._draining = None
        self._count_waiting()
        self._flush()

    def _count_waiting(self) -> None:
        """What waits has waited until now."""
        self._since = perf_counter()
        for frames in self._queues.values():
            self._on_waited(frames)

    def _send(self, queues: dict[str, list[Frame]]) -> None:
        """Send these frames; those that did not leave are told. Survives whatever a transport raises."""
        messages: list[Outgoing] = []
        contents: list[list[Frame]] = []  # of each message
        for subject, frames in queues.items():
            if self.has_unwanted:
                frames = [frame for frame in frames if self._is_wanted(frame)]
            if frames:
                self._pack(subject, frames, messages, contents)
        if not messages:
            return
        try:
            has_room = self._transport.publish(messages)
        except Exception as error:
            if not isinstance(error, ClusterError):
                logger.exception("the transport failed in a way of its own")
                error = ClusterError(f"the transport failed: {error!r}")
                error.execution = Execution.MAYBE
            for message, frames in zip(messages, contents, strict=True):
                self._on_failed(message.subject, frames, error)
        else:
            if not has_room and self._draining is None:
                self._draining = self._loop.create_task(self._drain(), name="catga-outbox", context=self._context)

    def _pack(self, subject: str, frames: list[Frame], messages: list[Outgoing], contents: list[list[Frame]]) -> None:
        """`frames` as one broker message, or as several where one would be too large, or where they are shared."""
        is_shared = subject in self.shared
        if is_shared and len(frames) > 1:
            for frame in frames:
                self._pack(subject, [frame], messages, contents)
            return
        try:
            data = encode_batch(self._wrap(frames))
        except (ValueError, TypeError, OverflowError, RecursionError) as failed:
            # A header or text that cannot be encoded (a lone surrogate) fails its own frame, and no other.
            parts, why = _halves(frames), f"a message cannot be encoded: {failed}"
        else:
            if self._seal is not None:
                data = self._seal(subject, data)
            size = len(data)
            if size <= SMALL or size <= (limit := self._most(len(frames))):
                self._token += 1
                self._on_sent(subject, self._token, frames)
                messages.append(Outgoing(subject, data, self._token, is_shared))
                contents.append(frames)
                return
            parts, why = _portions(frames, limit), f"a message of {size} bytes, the broker's limit is {limit}"
        if len(frames) == 1:
            self._on_failed(subject, frames, refused(why))
            return
        for part in parts:
            self._pack(subject, part, messages, contents)

    def _most(self, count: int) -> int:
        """Bytes of a batch of so many frames, at most."""
        limit = self._transport.max_payload
        return limit if count == 1 else min(limit, MAX_BATCH)


def _halves(frames: list[Frame]) -> list[list[Frame]]:
    half = len(frames) // 2
    return [frames[:half], frames[half:]]


def _portions(frames: list[Frame], limit: int) -> list[list[Frame]]:
    """`frames` in their order, in lists whose bodies have less than `limit` bytes, as far as that can be."""
    portions: list[list[Frame]] = [[]]
    left = limit - OVERHEAD
    for frame in frames:
        size = FRAME + (len(frame.body) if isinstance(frame, Call | Reply) else 0)
        if portions[-1] and size > left:
            portions.append([])
            left = limit - OVERHEAD
        portions[-1].append(frame)
        left -= size
    return portions if len(portions) > 1 else _halves(frames)  # what makes it so large is in their headers or texts
