"""The places of running calls, and the calls that a node makes to itself, which take places like all others."""

import asyncio
import logging
import math
from bisect import bisect, insort
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from time import perf_counter  # the loop's own time has milliseconds only, with uvloop
from typing import Any, NamedTuple, cast

from msgspec import structs

from catga.errors import CatgaError, ClosedError, Execution, OverloadedError
from catga.mediator import Mediator
from catga.mediator.ambient import runs_handlers
from catga.mediator.by_value import returned
from catga.mediator.carried import carried
from catga.mediator.isolated import Isolation, Within
from catga.mediator.nested import MAX_DEPTH, Holder, depth_in, holding
from catga.mediator.pipeline import Direct, as_catga_error, took_too_long
from catga.result import CatgaResult, Failure, Success
from catga.routing import NodeStats
from catga.rpc.deadlines import Deadlines
from catga.rpc.runner import Admitted, Endpoint, OnExit

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


class _Run:
    """A local call under way. It ends at its deadline as in `asyncio.timeout`, which would be most of what it costs."""

    __slots__ = (
        "_cancelling",
        "_task",
        "_timeout",
        "deadline",
        "endpoint",
        "has_begun",
        "has_place",
        "instead",
        "is_over",
        "started",
    )

    def __init__(self, endpoint: Endpoint, timeout: float, deadline: float) -> None:
        self.endpoint = endpoint
        self.started = perf_counter()
        self.deadline = deadline
        self.has_place = self.has_begun = self.is_over = False
        self.instead: CatgaError | None = None
        self._timeout = timeout
        self._task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._cancelling = self._task.cancelling()

    def expire(self) -> None:
        """Its time is over: cancel it."""
        self.is_over, self.deadline = True, math.inf
        self._task.cancel()

    @property
    def has_expired(self) -> bool:
        """Whether its handler has ended in its own way after the deadline had cancelled it: the caller is not told."""
        return self.is_over and self.instead is None

    def uncancel(self) -> bool:
        """Take the cancellation back. Returns whether nobody else has cancelled it."""
        self.is_over = False
        return self._task.uncancel() <= self._cancelling

    def stop(self) -> None:
        """The node stops before it has ended."""
        if not self.is_over and self._task is not asyncio.current_task():
            self.instead = ClosedError("the node stopped before the handler finished")
            self.expire()

    def too_late(self, cancelled: asyncio.CancelledError | None) -> Failure:
        """What its caller gets instead of a result."""
        error = self.instead or took_too_long(self.endpoint.codec.name, self._timeout, cancelled)
        error.execution = Execution.MAYBE if self.has_begun else Execution.NO
        return Failure(error)


class LocalCalls:
    """Runs what a node sends to itself, without the bus, under the same limits, and with the same meaning.

    Args:
        on_exit: told that a handler wants to end the program, in a turn of the loop of its own.
    """

    def __init__(self, places: Places, on_exit: OnExit) -> None:
        self._places = places
        self._on_exit = on_exit
        self._loop = asyncio.get_running_loop()
        self._isolation = Isolation()
        self._base = self._isolation.base
        self._running: dict[_Run, _Run] = {}
        self._deadlines = Deadlines(self._running, _Run.expire)
        self._all_ended: asyncio.Event | None = None
        self.owner: Mediator | None = None
        """What its handlers send by: `catga.current` gives it to those that `run` awaits."""

    def call(self, endpoint: Endpoint, direct: Direct, message: Any, stats: NodeStats) -> CatgaResult[Any]:
        """Call `direct`, the endpoint's: nothing else can run meanwhile. `stats` learn how long a success took."""
        if self._places.refusing is not None:
            return Failure(self._places.refusal())
        if not endpoint.is_exact(message) and type(message := _copied(endpoint, message)) is Failure:
            return message
        clock = stats.clock
        started = clock()
        try:
            own = self._isolation.own() if carried.get() else self._base.copy()
            result = own.run(direct, message)
        except (SystemExit, KeyboardInterrupt) as reason:
            result = self._exits(reason)
        now = clock()
        if type(result) is not Success:
            endpoint.tally.add(now - started, False)
            return result
        endpoint.tally.add(now - started, True)
        stats.took(now - started, now)
        return result if endpoint.is_exact_answer(result.value) else returned(endpoint.codec, result)

    async def run(
        self, endpoint: Endpoint, message: Any, timeout: float, headers: dict[str, str] | None
    ) -> CatgaResult[Any]:
        """Wait for a place, and run. Returns a failure whose execution is NO if it was refused."""
        if endpoint.direct is not None:
            return self.call(endpoint, endpoint.direct, message, NodeStats(""))  # who awaits this takes its time
        if self._places.refusing is not None:
            return Failure(self._places.refusal())
        if not endpoint.is_exact(message) and type(message := _copied(endpoint, message)) is Failure:
            return message
        places, depth = self._places, 0
        if headers is not None or places.busy >= places.crowded:
            depth = depth_in(headers)
            if places.is_full(depth):
                return Failure(places.overloaded())
            endpoint = places.held(endpoint, depth)
        run, result = self._begin(endpoint, timeout), None
        try:
            if not places.occupy(depth):
                await places.take(run.deadline, depth)
            run.has_place = True
            if perf_counter() - run.started >= timeout:  # the process was stopped while it waited
                return run.too_late(None)
            run.has_begun = True
            result = await Within(self._isolation.own(), endpoint.run(message))
            return run.too_late(None) if run.has_expired else _returned(endpoint, result)
        except (asyncio.CancelledError, ClosedError, SystemExit, KeyboardInterrupt) as error:
            return self._broken_off(run, error)
        finally:
            self._end(run, result)

    def _broken_off(
        self, run: _Run, error: asyncio.CancelledError | ClosedError | SystemExit | KeyboardInterrupt
    ) -> CatgaResult[Any]:
        if isinstance(error, asyncio.CancelledError):
            if not (run.is_over and run.uncancel()):
                raise error
            return run.too_late(error)
        if isinstance(error, ClosedError):  # the node stopped while the call waited for its place
            return Failure(error)
        return self._exits(error)

    def _begin(self, endpoint: Endpoint, timeout: float) -> _Run:
        deadline = self._loop.time() + timeout
        run = _Run(endpoint, timeout, deadline)
        self._running[run] = run
        if deadline < self._deadlines.due:
            self._deadlines.watch(deadline)
        return run

    def _end(self, run: _Run, result: CatgaResult[Any] | None) -> None:
        del self._running[run]
        if self._all_ended is not None and not self._running:
            self._all_ended.set()
        if run.is_over:  # its handler swallowed the cancellation
            run.uncancel()
        if run.has_place:
            self._places.busy -= 1
            run.endpoint.tally.add(perf_counter() - run.started, type(result) is Success)
        if self._places.is_awaited:
            self._places.go_on()

    def close(self) -> None:
        """Watch no deadlines any more, unless something runs that did not end with the node."""
        if not self._running:
            self._deadlines.close()

    async def cancel(self, patience: float) -> None:
        """Cancel what runs, and wait for its end for so many seconds."""
        for run in self._running:
            run.stop()
        if self._running:
            self._all_ended = asyncio.Event()
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._all_ended.wait()

    def _exits(self, error: SystemExit | KeyboardInterrupt) -> Failure:
        """A handler wants to end the program: its caller is answered first."""
        self._loop.call_soon(self._on_exit, error)
        return Failure(as_catga_error(error))


def _returned(endpoint: Endpoint, result: CatgaResult[Any]) -> CatgaResult[Any]:
    if type(result) is not Success or endpoint.is_exact_answer(result.value):
        return result
    return returned(endpoint.codec, result)


def _copied(endpoint: Endpoint, message: Any) -> Any:
    """The message as another node would get it, or the failure."""
    try:
        return endpoint.codec.copy(message)
    except CatgaError as error:
        return Failure(error)


runs_handlers[LocalCalls.call.__code__] = runs_handlers[LocalCalls.run.__code__] = lambda local: local.owner
