"""Coroutines on the event loop of another thread."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

from catga.errors import ClosedError, Execution

T = TypeVar("T")


async def on_loop(loop: asyncio.AbstractEventLoop, verb: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """What `verb` returns on `loop`. It is cancelled there if it is cancelled here.

    Raises:
        ClosedError: the loop does not run, or ends meanwhile.
    """
    if not loop.is_running():
        raise ClosedError("the event loop of the node does not run any more")
    coroutine = _begun(verb)
    try:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, loop))
    except RuntimeError:
        if not loop.is_closed():
            raise
        coroutine.close()
        raise ClosedError("the event loop of the node is closed") from None
    except asyncio.CancelledError:
        if cast("asyncio.Task[None]", asyncio.current_task()).cancelling():
            raise
        error = ClosedError("the event loop of the node ended before the call did")
        error.execution = Execution.MAYBE
        raise error from None


async def _begun(verb: Callable[[], Coroutine[Any, Any, T]]) -> T:
    return await verb()
