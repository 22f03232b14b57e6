"""Wait for a condition, not for a time."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

__all__ = ["eventually"]

T = TypeVar("T")


async def eventually(
    condition: Callable[[], Awaitable[T] | T], within: float = 15.0, *, every: float = 0.01, what: str = ""
) -> T:
    """Return the first true value of `condition`, asked again and again.

    Args:
        condition: a function, or a coroutine function. An AssertionError that it raises counts as "not yet".
        within: seconds until it is given up, and cancelled if it hangs; be generous, a test that passes does not wait.
        every: seconds between two questions.
        what: for the error, what was waited for.

    Raises:
        AssertionError: the condition did not come true. The message has its last value; the cause is its last
            AssertionError.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    last: Any = None
    hung = ""
    while True:
        limit = asyncio.timeout_at(deadline)
        try:
            value: Any = condition()
            if inspect.isawaitable(value):
                async with limit:
                    value = await value
            if value:
                return value  # type: ignore[no-any-return]
            last = value
        except AssertionError as error:
            last = error
        except TimeoutError:
            if not limit.expired():
                raise
            hung = ", and then it did not return"
        if loop.time() >= deadline:
            cause = last if isinstance(last, AssertionError) else None
            text = f"not within {within:g} s: {what or _source(condition)}; last: {last!r}{hung}"
            raise AssertionError(text) from cause
        await asyncio.sleep(every)


def _source(condition: Callable[..., Any]) -> str:
    try:
        return inspect.getsource(condition).strip()
    except (OSError, TypeError):
        return repr(condition)
