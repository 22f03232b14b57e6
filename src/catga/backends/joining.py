"""Steps of joining, which are tried again when the link breaks under them, and the end of a start that was given up."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from catga.errors import ClusterError

RETRY = 0.05
"""Seconds until a step that failed with the link is tried again."""
CANCEL_AGAIN = 0.1
"""Seconds until a task that goes on after a cancellation is cancelled again."""

T = TypeVar("T")


class BrokenError(ClusterError):
    """The link is down, or was lost meanwhile."""


class UnansweredError(ClusterError):
    """The server did not answer in time."""


async def persist(step: Callable[[], Awaitable[T]], is_up: Callable[[], bool], until: float) -> T:
    """Return the result of `step`, which is tried again as long as it fails with the link, or gets no answer.

    Args:
        is_up: tells whether the link works now.
        until: the end of all attempts, in the loop's time.

    Raises:
        ClusterError: of the last attempt.
    """
    loop = asyncio.get_running_loop()
    while True:
        try:
            return await step()
        except ClusterError as error:
            if loop.time() >= until or (is_up() and not isinstance(error, BrokenError | UnansweredError)):
                raise
        await asyncio.sleep(RETRY)


_ending: set[asyncio.Task[None]] = set()  # also keeps them from being collected


async def to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Run `work`, and let it go on if the caller is cancelled meanwhile: it closes what nobody else would close."""
    task = asyncio.ensure_future(work)
    _ending.add(task)
    task.add_done_callback(_ending.discard)
    await asyncio.shield(task)


async def end(task: "asyncio.Task[Any]") -> None:
    """Cancel `task` and return when it has ended, which this does not give up when it is cancelled itself.

    One cancellation may not suffice: `asyncio.wait_for` of Python 3.11 swallows it if the result is there already.
    """
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        task.cancel()
        try:
            await asyncio.wait([task], timeout=CANCEL_AGAIN)
        except asyncio.CancelledError as error:
            cancelled = error
    if not task.cancelled():
        task.exception()  # else asyncio would log that nobody has asked for it
    if cancelled is not None:
        raise cancelled
