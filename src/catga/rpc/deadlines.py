"""One timer for any number of deadlines: a wheel of slots, each a set of keys.

A timer or a task a call costs microseconds; here a deadline costs one `set.add`, and its removal one
`set.discard`. G. Varghese, T. Lauck, "Hashed and hierarchical timing wheels", SOSP 1987, scheme 6, with a
heap in place of the empty slots.
"""

import asyncio
import heapq
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

RESOLUTION = 0.02
"""Seconds. A deadline fires late by up to this, never early."""


class Deadlines(Generic[K]):
    """Calls ``on_expired(key)`` once a key's time has come, unless it was discarded before."""

    def __init__(self, on_expired: Callable[[K], None]) -> None:
        self._on_expired = on_expired
        self._loop = asyncio.get_running_loop()
        self._slots: dict[int, set[K]] = {}
        self._order: list[int] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, key: K, when: float) -> int:
        """Let `key` expire at `when` (the loop's time). Returns the slot that `discard` needs."""
        slot = int(when / RESOLUTION) + 1
        keys = self._slots.get(slot)
        if keys is None:
            keys = self._slots[slot] = set()
            heapq.heappush(self._order, slot)
            if self._order[0] == slot:
                self._arm()
        keys.add(key)
        return slot

    def discard(self, key: K, slot: int) -> None:
        """Forget `key`, if it is still there."""
        keys = self._slots.get(slot)
        if keys is not None:
            keys.discard(key)

    def close(self) -> None:
        """Nothing expires any more."""
        if self._timer is not None:
            self._timer.cancel()
        self._slots.clear()
        self._order.clear()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._order:
            self._timer = self._loop.call_at(self._order[0] * RESOLUTION, self._expire)

    def _expire(self) -> None:
        now = self._loop.time()
        while self._order and self._order[0] * RESOLUTION <= now + 0.001:
            for key in self._slots.pop(heapq.heappop(self._order)):
                self._on_expired(key)
        self._arm()
