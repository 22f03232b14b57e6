"""Runs admitted calls as tasks.

A task costs more than all else that is done for a call. So a handler that waits for something has a task of its own,
and one that did not wait the last time shares a task with what came together with it. The sharing cannot be seen: right
behind the shared task's step stands `_relieve` in the loop's queue. If the task has not ended by then, a handler waits
in it after all: the task is that call's own from now on, and the calls behind it get tasks of their own. A handler that
leaves something behind in its task or its context is the last that runs in them.
"""

import asyncio
import contextvars
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

import msgspec

from catga.codec import Codec
from catga.errors import CatgaError, HandlerError
from catga.mediator.pipeline import as_catga_error, left_out
from catga.result import CatgaResult, Failure, Success
from catga.rpc.answers import CallKey
from catga.rpc.tally import Tally


class Endpoint(msgspec.Struct, frozen=True):
    """What runs a message type: its codec, its compiled pipeline, and the count of its calls.

    ``direct`` and ``call`` are shorter forms of its pipeline, where it has them: without a coroutine, and without the
    outermost one, which catches what is raised.
    ``receiving``, where something wants the headers of a call, makes the endpoint for one call of them.
    """

    codec: Codec
    run: Callable[[Any], Coroutine[Any, Any, CatgaResult[Any]]]
    tally: Tally
    direct: Callable[[Any], CatgaResult[Any]] | None = None
    call: Callable[[Any], Awaitable[Any]] | None = None
    receiving: "Callable[[Mapping[str, str]], Endpoint] | None" = None


class Admitted(msgspec.Struct, eq=False):
    """A call that runs, or waits for a place.

    Attributes:
        started: when it was admitted (`perf_counter`).
        deadline: the loop's time at which it is cancelled.
        task: in which it runs, once it does.
        repeats: ids of repeats of it, which get the same answer.
        cancelled: it was told to end; `instead` is its answer then, None for none.
    """

    key: CallKey
    call_id: int
    endpoint: Endpoint
    message: Any
    started: float
    deadline: float
    task: "asyncio.Task[None] | None" = None
    repeats: tuple[int, ...] = ()
    cancelled: bool = False
    instead: CatgaError | None = None


OnEnd = Callable[[Admitted, CatgaResult[Any] | None], None]


class Runner:
    """Runs calls.

    Args:
        on_end: told of each call's end, with its result; None if nobody waits for one. Raises nothing.
        on_share: called when a shared task was made, whose step is the next in the loop's queue.
    """

    def __init__(self, on_end: OnEnd, on_share: Callable[[], None]) -> None:
        self._on_end = on_end
        self._on_share = on_share
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._ready: deque[Admitted] = deque()
        self._shared: asyncio.Task[None] | None = None  # the task that runs what is ready
        self._current: Admitted | None = None  # what it runs now

    def start(self, call: Admitted) -> None:
        """Run `call`, in this turn or the next."""
        if call.endpoint.tally.waits:
            self._run_alone(call)
            return
        self._ready.append(call)
        if self._shared is None:
            self._share()

    def withdraw(self, call: Admitted) -> None:
        """Do not run `call`, which has no task yet."""
        self._ready.remove(call)

    def _run_alone(self, call: Admitted) -> None:
        # A context of its own: that of the call which ended just now, or of the sender, is not this one's.
        call.task = _spawn(self._alone(call), self._loop, self._context.copy())

    async def _alone(self, call: Admitted) -> None:
        turns: list[None] = []
        self._loop.call_soon(turns.append, None)
        result: CatgaResult[Any] | None
        try:
            handle = call.endpoint.call
            result = await call.endpoint.run(call.message) if handle is None else Success(await handle(call.message))
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the border around a user's handler
            result = _ended_by(error, call)
        call.endpoint.tally.waits = bool(turns)
        self._on_end(call, result)

    def _share(self) -> None:
        self._shared = asyncio.Task(
            self._run_ready(), loop=self._loop, name="catga-calls", context=self._context.copy()
        )
        self._loop.call_soon(self._relieve, self._shared)
        self._on_share()

    async def _run_ready(self) -> None:
        me, untouched = self._shared, contextvars.copy_context()
        assert me is not None  # noqa: S101
        ready, on_end, cancelling = self._ready, self._on_end, me.cancelling
        result: CatgaResult[Any] | None
        while ready:
            call = self._current = ready.popleft()
            call.task = me
            try:
                handle = call.endpoint.call  # as in `_alone`: a coroutine for the two would cost each call
                result = (
                    await call.endpoint.run(call.message) if handle is None else Success(await handle(call.message))
                )
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the border around a user's handler
                result = _ended_by(error, call)
            on_end(call, result)
            if self._shared is not me:  # it waited
                return
            if cancelling() or contextvars.copy_context() != untouched:
                break
        self._shared = self._current = None
        if self._ready:
            self._share()

    def _relieve(self, task: "asyncio.Task[None]") -> None:
        if self._shared is not task:
            return
        self._shared = None
        if self._current is not None:
            self._current.endpoint.tally.waits = True
            self._current = None
        while self._ready:
            self._run_alone(self._ready.popleft())


def _ended_by(error: BaseException, call: Admitted) -> CatgaResult[Any] | None:
    """The result of a call whose handler raised, or was cancelled."""
    if not isinstance(error, asyncio.CancelledError):
        return Failure(as_catga_error(error))
    if call.cancelled:
        if call.instead is None:
            return None
        call.instead.details.update(left_out(error))
        return Failure(call.instead)
    return Failure(HandlerError("CancelledError: the handler was cancelled", details={"type": "CancelledError"}))


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
