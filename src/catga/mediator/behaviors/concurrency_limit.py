"""So many at once, so many waiting, no more."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from catga.abc import CallNext
from catga.errors import OverloadedError


class _Places:
    def __init__(self, limit: int) -> None:
        self.free = asyncio.Semaphore(limit)
        self.waiting = 0


class ConcurrencyLimit:
    """Lets `limit` messages in at once; `waiting` more queue up, in order; the rest get `OverloadedError`.

    An event takes one place for all of its handlers, until the last of them has ended. All messages that one instance
    stands around share its places, those of one event loop: install one instance for each group with
    ``mediator.behavior(only=...)``. A message and what its handler sends, and waits for, must not be in one group: with
    every place held by a sender, they would wait for each other.
    """

    def __init__(self, limit: int, *, waiting: int = 1024) -> None:
        if limit < 1 or waiting < 0:
            raise ValueError(f"limit must be at least 1 and waiting 0 or more, got {limit} and {waiting}")
        self._limit = limit
        self._max_waiting = waiting
        self._places: dict[asyncio.AbstractEventLoop, _Places] = {}

    async def __call__(self, message: object, call_next: CallNext[Any, Any]) -> Any:
        async with self.admission(message):
            return await call_next(message)

    @asynccontextmanager
    async def admission(self, _: object) -> AsyncGenerator[None]:
        """Hold one place."""
        places = self._here()
        if places.free.locked():
            await self._queue(places)
        else:
            await places.free.acquire()
        try:
            yield
        finally:
            places.free.release()

    def _here(self) -> _Places:
        loop = asyncio.get_running_loop()
        places = self._places.get(loop)
        if places is None:
            places = _Places(self._limit)
            open_loops = {known: its for known, its in self._places.items() if not known.is_closed()}
            self._places = {**open_loops, loop: places}
        return places

    async def _queue(self, places: _Places) -> None:
        if places.waiting >= self._max_waiting:
            text = f"{self._limit} run and {places.waiting} wait"
            raise OverloadedError(text, details={"limit": self._limit, "waiting": places.waiting})
        places.waiting += 1
        try:
            await places.free.acquire()
        finally:
            places.waiting -= 1
