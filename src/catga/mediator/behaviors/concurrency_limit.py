"""So many at once, so many waiting, no more."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any

from catga.abc import CallNext
from catga.errors import OverloadedError
from catga.messages import wire_name


class _Places:
    """Places, and who waits for one. One that is given back passes to the first who waits at once: who has been given a
    place, and has not had its turn yet, does not count as waiting."""

    def __init__(self, limit: int) -> None:
        self.free = limit
        self.waiting = 0
        self._queue: deque[asyncio.Future[None]] = deque()

    def take(self) -> bool:
        """Take one that is free, if there is one."""
        if self.free == 0:
            return False
        self.free -= 1
        return True

    async def wait(self) -> None:
        """Wait for one."""
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(place)
        self.waiting += 1
        try:
            await place
        except asyncio.CancelledError:
            if place.cancelled():
                self.waiting -= 1
                with suppress(ValueError):  # `give_back` has passed it over
                    self._queue.remove(place)
            else:  # it was given meanwhile
                self.give_back()
            raise

    def give_back(self) -> None:
        """Give one to the first who waits, or to who comes."""
        while self._queue:
            place = self._queue.popleft()
            if not place.done():
                self.waiting -= 1
                place.set_result(None)
                return
        self.free += 1


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
    async def admission(self, message: object) -> AsyncGenerator[None]:
        """Hold one place."""
        places = self._here()
        if not places.take():
            self._expect_room(places.waiting, message)
            await places.wait()
        try:
            yield
        finally:
            places.give_back()

    def _here(self) -> _Places:
        loop = asyncio.get_running_loop()
        places = self._places.get(loop)
        if places is None:
            places = _Places(self._limit)
            open_loops = {known: its for known, its in self._places.items() if not known.is_closed()}
            self._places = {**open_loops, loop: places}
        return places

    def _expect_room(self, waiting: int, message: object) -> None:
        if waiting >= self._max_waiting:
            text = f"{wire_name(type(message))} came when {self._limit} ran and {waiting} waited"
            raise OverloadedError(text, details={"limit": self._limit, "waiting": waiting})
