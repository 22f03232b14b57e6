"""The places of running calls: who may run, who waits, and who is refused."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from msgspec import structs

from catga.errors import CatgaError, ClosedError, OverloadedError
from catga.mediator.nested import MAX_DEPTH, Holder, holding
from catga.result import CatgaResult
from catga.rpc.patience import Pace
from catga.rpc.runner import Admitted, Endpoint

logger = logging.getLogger("catga.rpc")


class Place(NamedTuple):
    """A local call that waits for its place, until the loop's time is `deadline`."""

    granted: "asyncio.Future[None]"
    deadline: float
    depth: int


def refusal(reason: CatgaError) -> CatgaError:
    """The error for a call while none are taken for that reason."""
    error = ClosedError(reason.message, details=dict(reason.details))
    error.is_retryable = True
    return error


class Places:
    """Who may run, who waits, and who is refused.

    Handlers that wait for calls of their own lend their places (`catga.mediator.nested`). So not more than `limit` are
    at work when a call begins, and not more than `limit` are under way at each depth: then the calls that others wait
    for, and those that nobody's handler waits for, leave room for each other.

    Args:
        limit: calls that run at once.
        max_waiting: calls that wait for a place, and as many again that handlers wait for.
        start: begins a call that came over the bus and has waited; it takes its place itself.

    Attributes:
        busy: calls that have a place.
        crowded: so many are busy when handlers begin to lend their places.
        lent: handlers that do, now.
        waiting: calls that wait for one.
        refusing: why no calls are taken from the bus; None while they are.
        refused: calls answered with `OverloadedError`.
        is_awaited: somebody may wait for a place, or until nothing runs.
    """

    __slots__ = (
        "_has_told",
        "_idle",
        "_is_slow",
        "_is_starting",
        "_lines",
        "_max_waiting",
        "_nested",
        "_pace",
        "_start",
        "_turn",
        "_under_way",
        "busy",
        "crowded",
        "is_awaited",
        "lent",
        "limit",
        "refused",
        "refusing",
        "waiting",
    )

    def __init__(self, limit: int, max_waiting: int, start: Callable[[Admitted], None]) -> None:
        self.limit = limit
        self._max_waiting = max_waiting
        self._start = start
        self._has_told = False
        self.lent = 0
        self.is_awaited = False
        self.busy = 0
        self.crowded = limit // 2
        self._lines: list[deque[Admitted | Place]] = [deque() for _ in range(MAX_DEPTH + 1)]  # who waits, by depth
        self._pace = Pace(limit)  # of the new calls, those at depth 0
        self._is_slow = False  # a call has waited in vain, and others still wait
        self.waiting = 0
        self._under_way = [0] * (MAX_DEPTH + 1)  # by depth; those at depth 0 are not counted
        self._nested = 0  # the sum of these
        self._turn = 0  # the depth that had the last place; the ones below it come next
        self.refusing: CatgaError | None = None
        self.refused = 0
        self._is_starting = False
        self._idle: asyncio.Future[None] | None = None

    @property
    def inflight(self) -> int:
        """Calls that run or wait."""
        return self.busy + self.waiting

    def has_place(self, depth: int) -> bool:
        """Whether a call that is so deep may run now."""
        under_way = self._under_way[depth] if depth else self.busy - self._nested
        return self.busy - self.lent < self.limit and under_way < self.limit

    def is_full(self, depth: int, patience: float) -> bool:
        """Whether a call that is so deep, and may wait for so many seconds, is too many."""
        if self.has_place(depth):
            return False
        new = len(self._lines[0])  # new calls take no room from those that others wait for
        if depth:
            return self.waiting - new >= self._max_waiting or depth == MAX_DEPTH
        return new >= self._max_waiting or (self._is_slow and self._would_wait(patience))

    def _would_wait(self, seconds: float) -> bool:
        """Whether a new call would wait for longer, at the line's pace: those before it that have left by then take no
        time."""
        pace = self._pace.seconds
        if pace * (len(self._lines[0]) + 1) <= seconds:
            return False
        wait, now = pace, asyncio.get_running_loop().time()
        for call in self._lines[0]:
            if call.deadline > now + wait:
                wait += pace
                if wait > seconds:
                    return True
        return False

    def held(self, endpoint: Endpoint, depth: int) -> Endpoint:
        """`endpoint` for a call whose handler lends its place if places are few, or its own caller does."""
        if not depth and self.busy < self.crowded:
            return endpoint

        async def run(message: Any) -> CatgaResult[Any]:
            holder = Holder(self, depth + 1)
            token = holding.set(holder)
            self._count(depth, 1)
            try:
                return await endpoint.run(message)
            finally:
                self._count(depth, -1)
                holding.reset(token)
                holder.ended()

        return structs.replace(endpoint, run=run, call=None)

    def _count(self, depth: int, change: int) -> None:
        if depth:
            self._under_way[depth] += change
            self._nested += change
            if self.waiting:  # until it began it stood for a call that nobody's handler waits for
                self.go_on()

    def overdue(self) -> OverloadedError:
        """The error for a call that has waited for too long. From now on, until nobody waits, those that would are told
        at once."""
        self._is_slow = bool(self._lines[0])
        return self.overloaded("the request has waited for too long to begin in time")

    def overloaded(self, why: str = "the node is full") -> OverloadedError:
        """The error for a call that is one too many, or would wait for too long."""
        self.refused += 1
        return OverloadedError(
            f"{self.busy} calls run and {self.waiting} wait: {why}",
            details={"max_concurrency": self.limit, "max_queue": self._max_waiting},
        )

    async def take(self, deadline: float, depth: int) -> None:
        """Wait for a place; who awaits this ends it at `deadline`. Raises `ClosedError` if the node stops meanwhile."""
        place = Place(asyncio.get_running_loop().create_future(), deadline, depth)
        self.wait(place)
        try:
            await place.granted
        except BaseException:  # a cancellation, or its coroutine was closed
            if place.granted.done() and not place.granted.cancelled() and place.granted.exception() is None:
                self.busy -= 1
            else:
                self.withdraw(place)
            raise

    def wait(self, call: Admitted | Place) -> None:
        """Let it wait for its place."""
        self.is_awaited = True
        self._lines[call.depth].append(call)
        self.waiting += 1

    def withdraw(self, call: Admitted | Place) -> bool:
        """It waits no more. Returns whether it did."""
        line = self._lines[call.depth]
        if call not in line:
            return False
        line.remove(call)
        self.waiting -= 1
        if not self._lines[0]:
            self._calm()
        return True

    def occupy(self, depth: int) -> bool:
        """Take a place if there is one."""
        if not (self.busy < self.limit or self.has_place(depth)):
            return False
        if depth:
            self.tell(depth)
        self.busy += 1
        return True

    def lend(self) -> None:
        """A handler that has a place waits for a call of its own."""
        self.lent += 1
        if self.waiting:
            self.go_on()

    def take_back(self) -> None:
        """It goes on, or has ended."""
        self.lent -= 1

    def tell(self, depth: int) -> None:
        """A call is about to begin, perhaps in a place that is lent: log it the first time."""
        if depth and self.busy >= self.limit and not self._has_told:
            self._has_told = True
            logger.warning(
                "all %d places are held by handlers, some of which wait for calls of their own: calls that handlers "
                "wait for run in their places. Is max_concurrency too small?",
                self.limit,
            )

    def hold(self) -> None:
        """Something that has no place goes on though it should have ended: count it as one that has."""
        self.busy += 1

    def free(self) -> None:
        """A call that had a place has ended."""
        self.busy -= 1
        if self.is_awaited:
            self.go_on()

    def go_on(self) -> None:
        """A place may be free: start the next calls that still have time."""
        if not self._is_starting:  # an eager task that ends at once comes here again: the loop below goes on for it
            self._is_starting = True
            try:
                while (call := self._next()) is not None:
                    self._begin(call)
            finally:
                self._is_starting = False
        if self._idle is not None and not self.inflight and not self._idle.done():
            self._idle.set_result(None)
        self.is_awaited = bool(self.waiting) or (self._idle is not None and not self._idle.done())

    def _next(self) -> Admitted | Place | None:
        """The depths take turns, so that calls which keep coming from other nodes' handlers leave something to all."""
        if not self.waiting:
            return None
        for depth in (*range(self._turn - 1, -1, -1), *range(MAX_DEPTH, self._turn - 1, -1)):
            line = self._lines[depth]
            if line and self.has_place(depth):
                self._turn = depth
                self.waiting -= 1
                call: Admitted | Place = line.popleft()
                if not depth and line:
                    self._pace.moved()
                elif not depth:
                    self._calm()
                return call
        return None

    def _calm(self) -> None:
        """No new call waits: what comes now is no matter of what was."""
        self._pace.forget()
        self._is_slow = False

    def _begin(self, waiting: Admitted | Place) -> None:
        self.tell(waiting.depth)
        if isinstance(waiting, Admitted):
            self._start(waiting)
        elif not waiting.granted.done():
            self.busy += 1
            waiting.granted.set_result(None)

    async def idle(self) -> None:
        """Return once nothing runs or waits."""
        while self.inflight:
            if self._idle is None or self._idle.done():
                self.is_awaited = True
                self._idle = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._idle)  # others wait for it, too

    def close(self) -> list[Admitted]:
        """Refuse what waits. Returns the calls that came over the bus, which are to be told."""
        waiting = [call for line in self._lines for call in line]
        self._lines = [deque() for _ in self._lines]
        self.waiting = 0
        for each in waiting:
            if isinstance(each, Place) and not each.granted.done():
                each.granted.set_exception(ClosedError("the node stopped"))
        return [each for each in waiting if isinstance(each, Admitted)]
