"""Steps of joining, which are tried again when the link breaks under them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from catga.errors import ClusterError

RETRY = 0.05
"""Seconds until a step that failed with the link is tried again."""

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
