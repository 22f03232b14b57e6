"""The places of running calls: who may run, who waits, and who is refused."""

import asyncio
import logging
from bisect import bisect, insort
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from msgspec import structs

from catga.errors import CatgaError, ClosedError, OverloadedError
from catga.mediator.nested import MAX_DEPTH, Holder, holding
from catga.result import CatgaResult
from catga.rpc.runner import Admitted, Endpoint

logger = logging.getLogger("catga.rpc")


class Place(NamedTuple):
    """A local call that waits for its place."""

    granted: "asyncio.Future[None]"
    deadline: float
    depth: int


def _rank(call: Admitted | Place) -> int:
    return -call.depth


class Places:
    """Who may run, who waits, and who is refused.

    Handlers that wait for calls of their own lend their places to calls that are nested (`catga.mediator.nested`): so
    more than `limit` of them may be under way, and not more are at work.

    Args:
        limit: calls that run at once.
        max_waiting: calls that wait for a place.
        start: begins a call that came over the bus and has waited; it takes its place itself.

    Attributes:
        busy: calls that have a place.
        crowded: so many are busy when handlers begin to lend their places.
        lent: handlers that do, now.
        waiting: calls that wait for one, the oldest first.
        nested: those among them that are deep, the deepest first.
        refusing: why no calls are taken; None while they are.
        refused: calls answered with `OverloadedError`.
        is_awaited: somebody may wait for a place, or until nothing runs.
    """

    __slots__ = (
        "_has_told",
        "_idle",
        "_is_starting",
        "_max_waiting",
        "_start",
        "_turn",
        "busy",
        "crowded",
        "is_awaited",
        "lent",
        "limit",
        "nested",
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
        self.waiting: deque[Admitted | Place] = deque()
        self.nested: list[Admitted | Place] = []
        self.refusing: CatgaError | None = None
        self.refused = 0
        self._is_starting = False
        self._turn = MAX_DEPTH + 1  # the next free place is for a call that is less deep, if there is one
        self._idle: asyncio.Future[None] | None = None

    @property
    def inflight(self) -> int:
        """Calls that run or wait."""
        return self.busy + len(self.waiting) + len(self.nested)

    def has_place(self, depth: int) -> bool:
        """Whether a call that is so deep may run now."""
        if not depth:
            return self.busy < self.limit
        return self.busy - self.lent < self.limit and self.busy < self.limit * (depth + 1)

    def is_full(self, depth: int) -> bool:
        """Whether a call that is so deep is too many."""
        waiting = len(self.nested if depth else self.waiting)  # new calls take no room from those that others wait for
        return not self.has_place(depth) and (waiting >= self._max_waiting or depth == MAX_DEPTH)

    def held(self, endpoint: Endpoint, depth: int) -> Endpoint:
        """`endpoint` for a call whose handler lends its place if places are few, or its own caller does."""
        if not depth and self.busy < self.crowded:
            return endpoint

        async def run(message: Any) -> CatgaResult[Any]:
            holder = Holder(self, depth + 1)
            token = holding.set(holder)
            try:
                return await endpoint.run(message)
            finally:
                holding.reset(token)
                holder.ended()

        return structs.replace(endpoint, run=run, call=None)

    def refusal(self) -> CatgaError:
        """The error for a call while none are taken."""
        assert self.refusing is not None  # noqa: S101
        error = ClosedError(self.refusing.message, details=dict(self.refusing.details))
        error.is_retryable = True
        return error

    def overloaded(self) -> OverloadedError:
        """The error for a call that is one too many."""
        self.refused += 1
        return OverloadedError(
            f"{self.busy} calls run and {len(self.waiting) + len(self.nested)} wait: the node is full",
            details={"max_concurrency": self.limit, "max_queue": self._max_waiting},
        )

    async def take(self, deadline: float, depth: int) -> None:
        """Wait for a place until the loop's time is `deadline`. Raises `ClosedError` if the node stops meanwhile."""
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
        if call.depth:
            insort(self.nested, call, key=_rank)
        else:
            self.waiting.append(call)

    def withdraw(self, call: Admitted | Place) -> bool:
        """It waits no more. Returns whether it did."""
        for waiting in (self.waiting, self.nested):
            if call in waiting:
                waiting.remove(call)
                return True
        return False

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
        if self.nested:
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
        self.is_awaited = self.inflight > self.busy or (self._idle is not None and not self._idle.done())

    def _next(self) -> Admitted | Place | None:
        if self.busy < self.limit:
            return self._next_in_turn()
        return self.nested.pop(0) if self.nested and self.has_place(self.nested[0].depth) else None

    def _next_in_turn(self) -> Admitted | Place | None:
        """The depths take turns at what is free, and only places that are lent are for the deepest alone: so calls that
        keep coming from the handlers of other nodes leave something to all others."""
        behind = bisect(self.nested, -self._turn, key=_rank)
        if behind < len(self.nested):
            call = self.nested.pop(behind)
        elif self.waiting:
            call = self.waiting.popleft()
        elif self.nested:
            call = self.nested.pop(0)
        else:
            return None
        self._turn = call.depth or MAX_DEPTH + 1
        return call

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
        waiting = [*self.waiting, *self.nested]
        self.waiting.clear()
        self.nested.clear()
        for each in waiting:
            if isinstance(each, Place) and not each.granted.done():
                each.granted.set_exception(ClosedError("the node stopped"))
        return [each for each in waiting if isinstance(each, Admitted)]
