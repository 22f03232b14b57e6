"""A limit on the time a handler takes."""

import asyncio
from typing import Any

from catga.abc import CallNext
from catga.errors import CatgaTimeoutError, settle_doubt
from catga.messages import options_of, wire_name


class Timeout:
    """Cancels what is inside after `seconds`: `CatgaTimeoutError`. A plain function cannot be cancelled.

    The handler may have done a part of its work. So the error is retryable, for a `Retry` outside and for the caller,
    only if the message is marked ``idempotent``.

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
        except Exception as error:
            if not limit.expired():  # else it was cut off, whatever it ended with then
                raise
            late = CatgaTimeoutError(f"{wire_name(type(message))} took longer than {self._seconds:g} s")
            raise settle_doubt(late, idempotent=options_of(type(message)).idempotent) from error
