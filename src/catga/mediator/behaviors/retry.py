"""Another try for failures that may pass."""

import asyncio
import logging
import random
from typing import Any

from catga.abc import CallNext
from catga.errors import CatgaError, holds_doubt, leaves
from catga.mediator.behaviors import groups
from catga.mediator.behaviors.matching import Errors, matching
from catga.messages import wire_name

logger = logging.getLogger("catga.behaviors")

_MAX_POWER = 1000
"""Of 2, below what overflows."""


class Retry:
    """Calls what is inside again after a retryable failure, with exponential back-off and full jitter.

    Retryable is a `CatgaError` that says so (``is_retryable``), and what `on` names. What may have run and must not run
    twice is never repeated, whatever `on` says: a nested request that is not idempotent and whose deadline passed, or a
    `Timeout` around a message that is not idempotent. Nor is a try that was cancelled repeated, whatever error it ended
    with. An exception group is retryable if all that it holds is.

    The pause before try ``n + 1`` is uniform between 0 and ``min(cap, base * 2 ** (n - 1))`` seconds, as in M. Brooker,
    "Exponential backoff and jitter", AWS Architecture Blog, 2015. If the error says ``retry_after``, it is so many
    seconds longer; an error that asks for more than `cap` is passed on. Each further try is logged as a warning by
    ``catga.behaviors``.

    Args:
        attempts: tries in all.
        base, cap: seconds.
        on: other exceptions that are worth another try: classes, e.g. ``ConnectionError``, or a function that takes an
            exception and says so. Of an exception group, all that it holds is looked at.

    Raises:
        ValueError: a number that cannot work.
        TypeError: `on` has something else than exception classes.
    """

    def __init__(
        self,
        attempts: int = 3,
        *,
        base: float = 0.05,
        cap: float = 2.0,
        on: Errors = (),
    ) -> None:
        if attempts < 1 or not base >= 0 or not cap >= 0:
            raise ValueError(f"attempts must be at least 1, base and cap 0 or more: got {attempts}, {base}, {cap}")
        self._attempts = attempts
        self._base = base
        self._cap = cap
        self._is_worth_it = matching(on, "on")

    async def __call__(self, message: object, call_next: CallNext[Any, Any]) -> Any:
        for attempt in range(self._attempts - 1):
            cancellations = _cancellations()
            try:
                return await call_next(message)
            except Exception as error:
                if _cancellations() - groups.left_behind(error) > cancellations or not self._is_retryable(error):
                    raise
                pause = self._pause(attempt, error)
                _log(message, attempt, pause, error)
            await asyncio.sleep(pause)
        return await call_next(message)

    def _is_retryable(self, error: Exception) -> bool:
        if holds_doubt(error):
            return False
        if max(map(_retry_after, leaves(error))) > self._cap:
            return False
        return self._is_worth_it(error) or all(map(self._may_pass, leaves(error)))

    def _may_pass(self, error: Exception) -> bool:
        return (isinstance(error, CatgaError) and error.is_retryable) or self._is_worth_it(error)

    def _pause(self, attempt: int, error: Exception) -> float:
        backoff = random.uniform(0, min(self._cap, self._base * 2.0 ** min(attempt, _MAX_POWER)))
        return backoff + max(map(_retry_after, leaves(error)))


def _cancellations() -> int:
    """Return how often this task was cancelled, and did not hear of it or goes on all the same."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


def _retry_after(error: Exception) -> float:
    """Return the seconds until another try has a chance, as far as the error knows."""
    details: Any = error.details if isinstance(error, CatgaError) else None
    seconds: Any = details.get("retry_after") if isinstance(details, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return seconds if isinstance(seconds, int | float) and seconds > 0 else 0.0


def _log(message: object, attempt: int, pause: float, error: Exception) -> None:
    """Log a failed try: what failed and why in a word, and never what is in it."""
    name = wire_name(type(message))
    reason = error.code if isinstance(error, CatgaError) else type(error).__qualname__
    extra = {"catga_message": name, "catga_attempt": attempt + 1, "catga_seconds": pause, "catga_error": reason}
    logger.warning("try %d of %s failed (%s): again in %.2f s", attempt + 1, name, reason, pause, extra=extra)
