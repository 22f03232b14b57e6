"""So many at once, so many waiting, no more."""

import asyncio
from typing import Any

from catga.abc import CallNext
from catga.errors import OverloadedError


class ConcurrencyLimit:
    """Lets `limit` messages in at once; `waiting` more queue up, in order; the rest get `OverloadedError`.

    All messages that one instance stands around share its places: install one instance for each group with
    ``mediator.behavior(only=...)``.
    """

    def __init__(self, limit: int, *, waiting: int = 1024) -> None:
        if limit < 1 or waiting < 0:
            raise ValueError(f"limit must be at least 1 and waiting 0 or more, got {limit} and {waiting}")
        self._limit = limit
        self._free = asyncio.Semaphore(limit)
        self._waiting = 0
        self._max_waiting = waiting

    async def __call__(self, message: object, call_next: CallNext[Any, Any]) -> Any:
        if self._free.locked():
            if self._waiting >= self._max_waiting:
                text = f"{self._limit} run and {self._waiting} wait"
                raise OverloadedError(text, details={"limit": self._limit, "waiting": self._waiting})
            self._waiting += 1
            try:
                await self._free.acquire()
            finally:
                self._waiting -= 1
        else:
            await self._free.acquire()
        try:
            return await call_next(message)
        finally:
            self._free.release()
