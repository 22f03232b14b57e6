"""Runs admitted calls as tasks, and gives the event loop a turn after every `SLICE` of it.

A task costs more than all else that is done for a call. So a handler that suspends has a task of its own, and the
calls of handlers that did not suspend the last time share one task. The sharing cannot be seen. An example: the calls
A and B are ready, and neither handler suspended the last time.

1. `_share` makes one task for both. Right behind its first step `_relieve` stands in the loop's queue.
2. The task runs A. Usually A ends without having suspended, and the task goes on with B.
3. If A suspends this time, the step ends, and `_relieve` finds the task unfinished. The task is A's own from now on,
   and B gets another one.

A handler that leaves something behind in its task or in its context is the last that runs in them.

What is ready runs for one slice, in the order of its coming. Then the loop gets a turn: answers leave, pings are
answered, and what came in is read. So a node whose handlers burn CPU is busy, and is never taken for dead.
"""

import asyncio
import contextvars
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from time import perf_counter
from typing import Any, TypeAlias, cast

import msgspec

from catga.codec import Codec
from catga.errors import CatgaError
from catga.mediator.pipeline import answered, as_catga_error, left_out
from catga.result import CatgaResult, Failure, Success
from catga.rpc.answers import CallKey
from catga.rpc.patience import HOPE, patience
from catga.rpc.tally import Tally

SLICE = 0.005
"""Seconds for which ready calls run before the event loop gets a turn. One handler may take longer."""
MAX_STEP = 0.1
"""Seconds, the most that is expected of one handler's first step."""


def _always(value: Any) -> bool:
    return True


class Endpoint(msgspec.Struct, frozen=True):
    """What runs a message type: its codec, its compiled pipeline, and the count of its calls.

    ``direct`` and ``call`` are shorter forms of its pipeline, where it has them: without a coroutine, and without the
    outermost one, which catches what is raised.
    ``is_exact`` and ``is_exact_answer`` tell of a message and of a value whether they come back from the wire as they
    are, so that a local call may pass them by reference.
    ``receiving`` makes the endpoint for one call from the headers of it; ``is_intercepted`` says that something wants
    them even of a call that has none.
    """

    codec: Codec
    run: Callable[[Any], Coroutine[Any, Any, CatgaResult[Any]]]
    tally: Tally
    direct: Callable[[Any], CatgaResult[Any]] | None = None
    call: Callable[[Any], Awaitable[Any]] | None = None
    receiving: "Callable[[Mapping[str, str]], Endpoint] | None" = None
    is_intercepted: bool = False
    is_exact: Callable[[Any], bool] = _always
    is_exact_answer: Callable[[Any], bool] = _always


class Admitted(msgspec.Struct, eq=False):
    """A call that runs, or waits for a place.

    Attributes:
        started: when it was admitted (`perf_counter`).
        deadline: the loop's time at which it is cancelled; while it waits, at which it is refused.
        ends: the first of these, while it waits.
        begin_by: by `perf_counter`, which goes on during a turn of the loop: after it, it does not begin, if no time is
            kept for the run.
        began: when it ended to wait for its place, or for longer than a slice for its turn (`perf_counter`); else 0.
        task: in which it runs, once it does.
        repeats: ids of repeats of it, which get the same answer.
        cancelled: it was told to end; `instead` is its answer then, None for none.
        depth: as `catga.rpc.places.Places` has it.
    """

    key: CallKey
    call_id: int
    endpoint: Endpoint
    message: Any
    started: float
    deadline: float
    begin_by: float
    ends: float = 0.0
    began: float = 0.0
    task: "asyncio.Task[None] | None" = None
    repeats: tuple[int, ...] = ()
    cancelled: bool = False
    instead: CatgaError | None = None
    depth: int = 0


def is_late(call: Admitted, now: float) -> bool:
    """Whether so little of the time of `call` is left, by `perf_counter`, that it does not begin."""
    ttl = (call.begin_by - call.started) / HOPE
    return now >= call.started + patience(ttl, call.endpoint.tally.runs)


OnExit: TypeAlias = "Callable[[SystemExit | KeyboardInterrupt], None]"

OnEnd = Callable[[Admitted, CatgaResult[Any] | None], float]


class Runner:
    """Runs calls.

    Args:
        on_end: told of each call's end, with its result; None if nobody waits for one. Returns the time, by
            `perf_counter`. Raises nothing.
        on_late: told of each call that could not begin in time.
        on_exit: told that a handler wants to end the program. Its caller is answered first.
        on_share: called when a shared task was made, whose step is the next in the loop's queue.
    """

    def __init__(
        self, on_end: OnEnd, on_late: Callable[[Admitted], None], on_exit: OnExit, on_share: Callable[[], None]
    ) -> None:
        self._on_end = on_end
        self._on_exit = on_exit
        self._on_late = on_late
        self._on_share = on_share
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self.ready: deque[Admitted] = deque()
        """Calls that had no turn yet."""
        self._shared: asyncio.Task[None] | None = None  # the task that runs what is ready
        self._current: Admitted | None = None  # what it runs now
        self._booked = 0.0  # seconds that first steps of tasks take of this turn
        self._began = 0.0  # when the first step under way did, without eager tasks

    def start(self, call: Admitted) -> None:
        """Run `call`, in this turn or a later one, behind what is ready."""
        if call.endpoint.tally.waits and not self.ready and self._booked < SLICE:
            self._run_alone(call)
            return
        self.ready.append(call)
        if self._shared is None and self._booked < SLICE:
            self._share()

    def withdraw(self, call: Admitted) -> None:
        """Do not run `call`, which has no task yet."""
        self.ready.remove(call)

    # -- a task each ----------------------------------------------------------------------------------

    def _run_alone(self, call: Admitted) -> None:
        began = perf_counter()
        if is_late(call, began):
            self._on_late(call)
            return
        if began - call.started > SLICE:
            call.began = call.began or began
        # A context of its own: that of the call which ended just now, or of the sender, is not this one's.
        call.task = _spawn(self._alone(call), self._loop, self._context.copy())
        if EAGER:
            step = perf_counter() - began
            call.endpoint.tally.waits = not call.task.done()
            self._loop.call_soon(self._free, step)
        else:
            step = call.endpoint.tally.step
            self._loop.call_soon(self._stepped, call, step)  # right behind the first step
        self._booked += step

    def _stepped(self, call: Admitted, booked: float) -> None:
        if self._began:  # else it was too late, which says nothing of the handler
            tally = call.endpoint.tally
            tally.step += (min(perf_counter() - self._began, MAX_STEP) - tally.step) / 2
            tally.waits = not cast("asyncio.Task[None]", call.task).done()
        self._free(booked)

    def _free(self, booked: float) -> None:
        self._booked -= booked
        self._go_on()

    async def _alone(self, call: Admitted) -> None:
        if not EAGER:
            self._began = perf_counter()
            if is_late(call, self._began):  # it was in time when the task was made
                self._began = 0.0
                self._on_late(call)
                return
        result: CatgaResult[Any] | None
        try:
            handle = call.endpoint.call
            result = await call.endpoint.run(call.message) if handle is None else Success(await handle(call.message))
        except BaseException as error:  # noqa: BLE001 - the border around a user's handler
            result = self._ended_by(error, call)
        self._on_end(call, result)

    # -- one task for several -------------------------------------------------------------------------

    def _go_on(self) -> None:
        if self.ready and self._shared is None and self._booked < SLICE:
            self._share()

    def _share(self) -> None:
        self._shared = asyncio.Task(
            self._run_ready(), loop=self._loop, name="catga-calls", context=self._context.copy()
        )
        self._loop.call_soon(self._relieve, self._shared)
        self._on_share()

    async def _run_ready(self) -> None:
        me, untouched = self._shared, contextvars.copy_context()
        assert me is not None  # noqa: S101
        ready, on_end, cancelling = self.ready, self._on_end, me.cancelling
        now = perf_counter()
        ends = now + SLICE
        is_behind = bool(ready) and now - ready[0].started > SLICE
        result: CatgaResult[Any] | None
        while ready:
            if (is_behind or ready[0].begin_by <= now) and self._refuse_late(now):
                break  # their callers hear of it before the next one runs: they may be in time elsewhere
            call = ready.popleft()
            if call.endpoint.tally.waits:
                self._run_alone(call)
                if self._booked >= SLICE:
                    break
                continue
            if is_behind:
                call.began = call.began or now
            self._current, call.task = call, me
            try:
                handle = call.endpoint.call  # as in `_alone`: a coroutine for the two would cost each call
                result = (
                    await call.endpoint.run(call.message) if handle is None else Success(await handle(call.message))
                )
            except BaseException as error:  # noqa: BLE001 - the border around a user's handler
                result = self._ended_by(error, call)
            now = on_end(call, result)
            if self._shared is not me:  # it suspended
                return
            if now > ends or cancelling() or contextvars.copy_context() != untouched:
                break
        self._shared = self._current = None
        if ready:
            self._go_on()

    def _refuse_late(self, now: float) -> bool:
        """Returns whether the next one was late: those behind it that are late, too, go with it."""
        found = False
        while self.ready and is_late(self.ready[0], now):
            self._on_late(self.ready.popleft())
            found = True
        return found

    def _relieve(self, task: "asyncio.Task[None]") -> None:
        if self._shared is not task:
            return
        self._shared = None
        if self._current is not None:
            self._current.endpoint.tally.waits = True
            self._current = None
        self._go_on()

    def _ended_by(self, error: BaseException, call: Admitted) -> CatgaResult[Any] | None:
        """The result of a call whose handler raised, or was cancelled."""
        if isinstance(error, GeneratorExit) and not self._loop.is_running():
            raise error  # nobody is left to be answered
        if isinstance(error, SystemExit | KeyboardInterrupt):
            self._loop.call_soon(self._on_exit, error)
            return Failure(as_catga_error(error))
        if not isinstance(error, asyncio.CancelledError):
            return Failure(answered(error, call.message))
        if not call.cancelled:
            is_ending = cast("asyncio.Task[None]", asyncio.current_task()).cancelling()
            return Failure((as_catga_error if is_ending else partial(answered, message=call.message))(error))
        if call.instead is None:
            return None
        call.instead.details.update(left_out(error))
        return Failure(call.instead)


EAGER = sys.version_info >= (3, 12)
"""Whether a task makes its first step when it is made."""

if sys.version_info >= (3, 12):

    def _spawn(
        coroutine: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop, context: contextvars.Context
    ) -> "asyncio.Task[None]":
        """A task that runs up to its first suspension right now."""
        return asyncio.Task(coroutine, loop=loop, name="catga-call", context=context, eager_start=True)

else:

    def _spawn(
        coroutine: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop, context: contextvars.Context
    ) -> "asyncio.Task[None]":
        """A task."""
        return asyncio.Task(coroutine, loop=loop, name="catga-call", context=context)
