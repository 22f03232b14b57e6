"""Blocking functions as handlers: each call runs in a thread, and what is around it in the event loop.

Nobody can end a thread. So a caller that gives up, at its deadline or because it was cancelled, gets its error at once;
the thread goes on, and its call keeps its place until it ends. What it sends through a node from then on fails at once.
A call that waits for a thread never begins then.
"""

import asyncio
import contextvars
import functools
import os
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias

from catga.errors import InvalidMessageError
from catga.mediator.ambient import marked_context
from catga.mediator.annotations import Handler, is_coroutine_function, label
from catga.mediator.pipeline import answered

MAX_THREADS = 64
"""Threads of a mediator in one process, at most. On a node there is one for each call that has a place."""

Outcome: TypeAlias = "tuple[BaseException | None, Any]"
Steps: TypeAlias = "Callable[[Threads], Coroutine[Any, Any, Any]]"


_depth: ContextVar[int] = ContextVar("catga_thread_depth", default=0)
"""Threads that wait for what runs here, one for the other."""


class Caller:
    """Who waits for a call that runs in a thread.

    Attributes:
        has_left: it gave up: what the thread waits for from now on is for nobody.
    """

    def __init__(self) -> None:
        self.has_left = False
        self._told: set[Callable[[], object]] = set()

    def leave(self) -> None:
        """It gives up."""
        self.has_left = True
        for tell in self._told.copy():  # at once: others add to it meanwhile
            tell()

    @contextmanager
    def telling(self, tell: Callable[[], object]) -> Generator[None]:
        """Call `tell` if the caller leaves before the block has ended: in any thread, once or twice."""
        self._told.add(tell)
        try:
            if self.has_left:  # meanwhile, in the other thread
                tell()
            yield
        finally:
            self._told.discard(tell)


caller: "ContextVar[Caller | None]" = ContextVar("catga_thread_caller", default=None)
"""Who waits for the thread that this is."""


def _nothing() -> None: ...


def _raise(error: SystemExit | KeyboardInterrupt) -> None:
    raise error


class Threads:
    """Threads, made as they are needed.

    Args:
        limit: how many, at most; calls beyond wait for one. Calls that other threads wait for have as many again.
        hold: called when the caller of a call leaves before it ends.
        release: called when such a call has ended.
        on_exit: told that such a call wants to end the program.
    """

    def __init__(
        self,
        limit: int,
        *,
        hold: Callable[[], None] = _nothing,
        release: Callable[[], None] = _nothing,
        on_exit: Callable[[SystemExit | KeyboardInterrupt], None] = _raise,
    ) -> None:
        self._limit = limit
        self._hold = hold
        self._release = release
        self._on_exit = on_exit
        self._executors: dict[int, ThreadPoolExecutor] = {}  # by the depth of their calls
        self._pid = 0

    async def finish(self, steps: Steps, message: object, context: contextvars.Context) -> Any:
        """Await ``steps(self)``, which go on to their end if the caller is cancelled meanwhile.

        Args:
            message: which they handle.
            context: in which they run.
        """
        waiting = Caller()
        context.run(caller.set, waiting)
        task = asyncio.create_task(self._outcome_of(steps), name="catga-thread", context=context)
        try:
            await asyncio.wait([task])
        except (asyncio.CancelledError, GeneratorExit):
            if task.get_loop().is_closed():
                raise
            task.cancel()  # it ends now if its thread has not begun
            waiting.leave()
            self._hold()
            task.add_done_callback(functools.partial(self._outlived, message))
            raise
        return _unpacked(task.result())

    async def call(self, function: Handler, message: object) -> Any:
        """Return ``function(message)``, run in a thread. Once it has begun, a cancellation is put off until it ends."""
        depth, context = _depth.get(), contextvars.copy_context()
        context.run(_depth.set, depth + 1)
        work = self._pool(depth).submit(context.run, _called, function, message)
        done = asyncio.wrap_future(work)
        while not done.done():
            try:
                await asyncio.wait([done])
            except asyncio.CancelledError:
                if work.cancel():
                    raise
        value = _unpacked(done.result())
        return await value if hasattr(value, "__await__") else value

    async def _outcome_of(self, steps: Steps) -> Outcome:
        try:
            return None, await steps(self)
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's task: here some would end the loop
            return error, None

    def close(self) -> None:
        """Let the threads end, once they are idle."""
        for executor in self._executors.values():
            executor.shutdown(wait=False)
        self._executors.clear()

    def _pool(self, depth: int) -> ThreadPoolExecutor:
        """The threads for calls that so many others wait for, one for the other: none of them waits for another."""
        if self._pid != os.getpid():  # a fork has none of its parent's threads
            self._executors, self._pid = {}, os.getpid()
        if depth not in self._executors:
            self._executors[depth] = ThreadPoolExecutor(self._limit, "catga-handler")
        return self._executors[depth]

    def _outlived(self, message: object, task: "asyncio.Task[Outcome]") -> None:
        """A call has ended whose caller had left: nobody else hears of a bug in it."""
        self._release()
        error = None if task.cancelled() else task.result()[0]
        if isinstance(error, SystemExit | KeyboardInterrupt):
            self._on_exit(error)
        elif error is not None and not isinstance(error, asyncio.CancelledError):
            answered(error, message)


def _called(function: Handler, message: object) -> Outcome:
    try:
        return None, function(message)
    except BaseException as error:  # noqa: BLE001 - raised again in the event loop: a future does not take all of them
        return error, None


def _unpacked(outcome: Outcome) -> Any:
    error, value = outcome
    try:
        if error is not None:
            raise error
        return value
    finally:
        del error, outcome  # its traceback refers to this frame


_default = Threads(MAX_THREADS)


async def finish(steps: Steps, message: object) -> Any:
    """Await `steps` with the threads of the mediator that runs this handler; see `Threads.finish`."""
    mediator, context = marked_context()
    threads = _default if mediator is None else mediator._threads  # pyright: ignore[reportPrivateUsage]
    return await threads.finish(steps, message, context)


class ThreadHandler:
    """Calls a plain function in a thread.

    Raises:
        InvalidMessageError: it is an ``async def``.
    """

    def __init__(self, function: Handler) -> None:
        refuse_coroutine_function(function)
        self.function = function
        functools.update_wrapper(self, function, updated=())

    async def __call__(self, message: Any) -> Any:
        return await finish(lambda threads: threads.call(self.function, message), message)


def refuse_coroutine_function(function: Handler) -> None:
    """Raise `InvalidMessageError` if the function cannot run in a thread."""
    if is_coroutine_function(function):
        raise InvalidMessageError(
            f"{label(function)} is an `async def`, which runs in the event loop: in_thread=True is for a plain `def`"
        )
