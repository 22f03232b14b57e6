"""The calls that a node makes to itself, which take places like all others."""

import asyncio
import math
from contextlib import suppress
from time import perf_counter  # the loop's own time has milliseconds only, with uvloop
from typing import Any, cast

from catga.errors import CatgaError, ClosedError, Execution
from catga.mediator import Mediator
from catga.mediator.ambient import runs_handlers
from catga.mediator.by_value import returned
from catga.mediator.carried import carried
from catga.mediator.isolated import Isolation, Within
from catga.mediator.nested import depth_in
from catga.mediator.pipeline import Direct, as_catga_error, took_too_long
from catga.result import CatgaResult, Failure, Success
from catga.routing import NodeStats
from catga.rpc.deadlines import Deadlines
from catga.rpc.patience import patience
from catga.rpc.places import Places, refusal
from catga.rpc.runner import Endpoint, OnExit


class _Run:
    """A local call under way. It ends at its deadline as in `asyncio.timeout`, which would be most of what it costs."""

    __slots__ = (
        "_cancelling",
        "_task",
        "_timeout",
        "began",
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
        self.began = 0.0  # when it had its place, if it has waited for that
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

    @property
    def is_gone(self) -> bool:
        """Whether its caller has given up."""
        return perf_counter() - self.started >= self._timeout

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
        self._deadlines = Deadlines(self._running, self._expired)
        self._all_ended: asyncio.Event | None = None
        self.refusing: CatgaError | None = None
        """Why no calls are taken; None while they are. A node that drains takes those that its handlers still make."""
        self.owner: Mediator | None = None
        """What its handlers send by: `catga.current` gives it to those that `run` awaits."""

    def call(
        self, endpoint: Endpoint, direct: Direct, message: Any, stats: NodeStats, started: float
    ) -> CatgaResult[Any]:
        """Call `direct`, the endpoint's: nothing else can run meanwhile.

        Args:
            stats: learn how long a success took.
            started: the time by the clock of `stats`.
        """
        if self.refusing is not None:
            return Failure(refusal(self.refusing))
        if not endpoint.is_exact(message) and type(message := _copied(endpoint, message)) is Failure:
            return message
        try:
            own = self._isolation.own() if carried.get() else self._base.copy()
            result = own.run(direct, message)
        except (SystemExit, KeyboardInterrupt) as reason:
            result = self._exits(reason)
        clock = stats.clock
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
            unseen = NodeStats("")  # who awaits this takes its time
            return self.call(endpoint, endpoint.direct, message, unseen, unseen.clock())
        if self.refusing is not None:
            return Failure(refusal(self.refusing))
        if not endpoint.is_exact(message) and type(message := _copied(endpoint, message)) is Failure:
            return message
        places, depth = self._places, 0
        if headers is not None or places.busy >= places.crowded:
            depth = depth_in(headers)
            if places.is_full(depth, patience(timeout, endpoint.tally.runs)):
                return Failure(places.overloaded())
            endpoint = places.held(endpoint, depth)
        run, result = self._begin(endpoint, timeout), None
        try:
            if not places.occupy(depth):
                await self._wait(run, timeout, depth)
            run.has_place = True
            if run.instead is not None or run.is_gone:  # the process was stopped
                return run.too_late(None)
            run.has_begun = True
            result = await Within(self._isolation.own(), endpoint.run(message))
            return run.too_late(None) if run.has_expired else _returned(endpoint, result)
        except (asyncio.CancelledError, ClosedError, SystemExit, KeyboardInterrupt) as error:
            if (ended := self._broken_off(run, error)) is None:
                raise
            return ended
        finally:
            self._end(run, result)

    async def _wait(self, run: _Run, timeout: float, depth: int) -> None:
        """Wait for a place, and not for longer than leaves time to run: then `_expired` ends it."""
        waits = patience(timeout, run.endpoint.tally.runs)
        ends, run.deadline = run.deadline, self._loop.time() + waits
        self._watch(run)
        await self._places.take(run.deadline, depth)
        run.began, run.deadline = perf_counter(), ends
        if waits <= run.began - run.started < timeout:  # the process was stopped while it waited
            run.instead = self._places.overdue()

    def _expired(self, run: _Run) -> None:
        if not run.has_place and not run.is_gone:
            run.instead = self._places.overdue()
        run.expire()

    def _broken_off(
        self, run: _Run, error: asyncio.CancelledError | ClosedError | SystemExit | KeyboardInterrupt
    ) -> Failure | None:
        """The result of a run that ended so; None if it is its caller who was cancelled."""
        if isinstance(error, asyncio.CancelledError):
            return run.too_late(error) if run.is_over and run.uncancel() else None
        if isinstance(error, ClosedError):  # the node stopped while the call waited for its place
            return Failure(error)
        return self._exits(error)

    def _begin(self, endpoint: Endpoint, timeout: float) -> _Run:
        deadline = self._loop.time() + timeout
        run = _Run(endpoint, timeout, deadline)
        self._running[run] = run
        self._watch(run)
        return run

    def _watch(self, run: _Run) -> None:
        if run.deadline < self._deadlines.due:
            self._deadlines.watch(run.deadline)

    def _end(self, run: _Run, result: CatgaResult[Any] | None) -> None:
        del self._running[run]
        if self._all_ended is not None and not self._running:
            self._all_ended.set()
        if run.is_over:  # its handler swallowed the cancellation
            run.uncancel()
        if run.has_place:
            self._places.busy -= 1
        if run.has_begun:
            ended = perf_counter()
            run.endpoint.tally.add(ended - run.started, type(result) is Success)
            if run.began:
                run.endpoint.tally.ran(ended - run.began)
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
