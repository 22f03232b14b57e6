"""Another try for failures that may pass."""

import asyncio
import random
from typing import Any

from catga.abc import CallNext
from catga.errors import CatgaError
from catga.mediator.behaviors.matching import Errors, matching

_MAX_POWER = 1000
"""Of 2, below what overflows."""


class Retry:
    """Calls what is inside again after a retryable failure, with exponential back-off and full jitter.

    Retryable is a `CatgaError` that says so (``is_retryable``), and what `on` names. The pause before try
    ``n + 1`` is uniform between 0 and ``min(cap, base * 2 ** (n - 1))`` seconds, as in M. Brooker,
    "Exponential backoff and jitter", AWS Architecture Blog, 2015.

    Args:
        attempts: tries in all.
        base, cap: seconds.
        on: other exceptions that are worth another try: classes, e.g. ``ConnectionError``, or a function that takes an
            exception and says so.

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
            try:
                return await call_next(message)
            except Exception as error:
                if not self._is_retryable(error):
                    raise
            await asyncio.sleep(random.uniform(0, min(self._cap, self._base * 2.0 ** min(attempt, _MAX_POWER))))
        return await call_next(message)

    def _is_retryable(self, error: Exception) -> bool:
        return (isinstance(error, CatgaError) and error.is_retryable) or self._is_worth_it(error)
