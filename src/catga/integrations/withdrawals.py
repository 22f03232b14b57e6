"""Values that a store may have set though its caller was never told are discarded in the background."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from catga.errors import StoreError

PAUSE = (0.1, 0.3)
"""Seconds until a store that could not be reached is asked again."""
MAX_WAITING = 10_000
"""Values that wait to be discarded, at most. Those beyond stay until their time is over."""
FORGOTTEN = 60.0
"""Seconds for which a `discard` that failed is tried again: the lifetime of the value is not known then."""


class _Doubt(NamedTuple):
    settled: float
    end: float
    is_asked: bool = False


class Withdrawals:
    """Discards values of which nobody knows whether the store has them, until the store has taken that.

    Nothing waits for it: it ends with the event loop, and each value with its own time in the store.

    Args:
        discard: deletes a key that has a value, or raises `StoreError`.
        is_closed: whether the client of the store was closed, for good.
    """

    def __init__(
        self, discard: Callable[[str, bytes], Awaitable[None]], is_closed: Callable[[], bool] = lambda: False
    ) -> None:
        self._discard = discard
        self._is_closed = is_closed
        self._doubts: dict[tuple[str, bytes], _Doubt] = {}
        self._task: asyncio.Task[None] | None = None

    def add(self, key: str, value: bytes, late: float = 0.0, ttl: float = FORGOTTEN) -> None:
        """Discard `value` of `key`, at once, and again if the store may set it later than that.

        Args:
            late: seconds in which the store may still set it.
            ttl: seconds after these until it is given up, as the value is over.
        """
        loop = asyncio.get_running_loop()
        doubt = _Doubt(loop.time() + late, loop.time() + late + ttl)
        former = self._doubts.get((key, value), doubt)
        if len(self._doubts) < MAX_WAITING:
            self._doubts[key, value] = _Doubt(max(doubt.settled, former.settled), max(doubt.end, former.end))
        if self._task is None or self._task.done() or self._task.get_loop() is not loop:
            self._task = loop.create_task(self._run(), name="catga-store-withdrawals")

    async def _run(self) -> None:
        while self._doubts and not self._is_closed():
            for key, doubt in list(self._doubts.items()):
                if await self._settle(*key, doubt):
                    self._doubts.pop(key, None)
            await asyncio.sleep(random.uniform(*PAUSE))

    async def _settle(self, key: str, value: bytes, doubt: _Doubt) -> bool:
        """Return whether no more is to be done about it."""
        now = asyncio.get_running_loop().time()
        if now >= doubt.end:
            return True
        if doubt.is_asked and now < doubt.settled:
            return False
        if not await self._discarded(key, value) or self._doubts.get((key, value)) is not doubt:  # a newer one
            return False
        self._doubts[key, value] = doubt._replace(is_asked=True)
        return now >= doubt.settled

    async def _discarded(self, key: str, value: bytes) -> bool:
        try:
            await self._discard(key, value)
        except StoreError:
            await asyncio.sleep(random.uniform(*PAUSE))
            return False
        return True
