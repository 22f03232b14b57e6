"""Coroutines on the event loop of another thread."""

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from catga.errors import CatgaTimeoutError, ClosedError, Execution, settle_doubt
from catga.mediator.threads import Caller

T = TypeVar("T")

LOOK_INTERVAL = 1.0
"""Seconds between two looks whether the other loop still runs: its end takes along what runs in it, in silence."""


async def on_loop(loop: asyncio.AbstractEventLoop, verb: Callable[[], Coroutine[Any, Any, T]], waiting: Caller) -> T:
    """What `verb` returns on `loop`. It is cancelled there if it is cancelled here.

    Raises:
        ClosedError: the loop does not run, or ends meanwhile.
        CatgaTimeoutError: the caller who is `waiting` has left, or does so meanwhile.
    """
    if waiting.has_left:
        raise _given_up(Execution.NO)
    if not loop.is_running():
        raise ClosedError("the event loop of the node does not run any more")
    coroutine = _begun(verb)
    try:
        future = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, loop))
    except RuntimeError:  # it was closed just now
        coroutine.close()
        raise ClosedError("the event loop of the node is closed") from None
    here = asyncio.get_running_loop()
    try:
        with waiting.telling(lambda: _soon(here, future.cancel)):
            while loop.is_running() and not future.done():
                await asyncio.wait([future], timeout=LOOK_INTERVAL)
    finally:
        if loop.is_running():
            future.cancel()
        elif inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
            coroutine.close()
    if future.done() and not future.cancelled():
        return future.result()
    if waiting.has_left:
        raise _given_up(Execution.MAYBE)
    error = ClosedError("the event loop of the node ended before the call did")
    error.execution = Execution.MAYBE
    raise error


def _soon(loop: asyncio.AbstractEventLoop, step: Callable[[], object]) -> None:
    with suppress(RuntimeError):  # it is closed
        loop.call_soon_threadsafe(step)


def _given_up(execution: Execution) -> CatgaTimeoutError:
    error = CatgaTimeoutError("the caller of the handler in this thread has given up")
    error.execution = execution
    return settle_doubt(error, idempotent=False)  # which message it was is not known here


async def _begun(verb: Callable[[], Coroutine[Any, Any, T]]) -> T:
    return await verb()
