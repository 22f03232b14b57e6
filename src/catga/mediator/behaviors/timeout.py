"""A limit on the time a handler takes."""

import asyncio
from typing import Any

from catga.abc import CallNext
from catga.errors import CatgaTimeoutError
from catga.messages import wire_name


class Timeout:
    """Cancels what is inside after `seconds`: `CatgaTimeoutError`. A plain function cannot be cancelled.

    Raises:
        ValueError: `seconds` is not positive.
    """

    def __init__(self, seconds: float) -> None:
        if not seconds > 0:
            raise ValueError(f"seconds must be positive, got {seconds!r}")
        self._seconds = seconds

    async def __call__(self, message: object, call_next: CallNext[Any, Any]) -> Any:
        limit = asyncio.timeout(self._seconds)
        try:
            async with limit:
                return await call_next(message)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise CatgaTimeoutError(f"{wire_name(type(message))} took longer than {self._seconds:g} s") from error
