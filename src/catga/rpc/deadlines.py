"""One timer for any number of deadlines, which costs a call one comparison.

Most calls end long before their deadline, so nothing is kept in the order of deadlines, and nothing is removed: when
the earliest is due, whatever is held is looked through. That happens at most every `RESOLUTION` seconds, and for about
a tenth of the time, however much is held. (A timer or a task a call costs microseconds, a timing wheel half of one.)
"""

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from typing import Generic, Protocol, TypeVar

RESOLUTION = 0.02
"""Seconds. A deadline fires late by up to this, never early."""
SHARE = 0.1
"""Of the time that may be spent looking, which with tens of thousands of calls makes deadlines later."""
MAX_REST = 0.1
"""Seconds between two looks, at most, however long the last one took."""


class Ending(Protocol):
    """What has a deadline, in the loop's time."""

    deadline: float


K = TypeVar("K")
E = TypeVar("E", bound=Ending)


class Deadlines(Generic[K, E]):
    """Calls ``on_expired(key)`` for what is `held` once its deadline has come.

    It should be no longer held then, or have another deadline. Whoever puts something into `held` calls `watch` if its
    deadline is before `due`.
    """

    def __init__(self, held: Mapping[K, E], on_expired: Callable[[K], None]) -> None:
        self._held = held
        self._on_expired = on_expired
        self._loop = asyncio.get_running_loop()
        self.due = math.inf
        """When the timer fires: a later deadline need not be watched."""
        self._rests_until = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, deadline: float) -> None:
        """Something is held now whose deadline is before `due`."""
        self._arm(deadline)

    def close(self) -> None:
        """Nothing expires any more."""
        if self._timer is not None:
            self._timer.cancel()
        self.due = -math.inf

    def _arm(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if when == math.inf:
            return
        self.due = max(when, self._rests_until)
        self._timer = self._loop.call_at(self.due, self._look)

    def _look(self) -> None:
        now = self._loop.time()
        expired: list[K] = []
        earliest = math.inf
        for key, ending in self._held.items():
            if ending.deadline <= now:
                expired.append(key)
            elif ending.deadline < earliest:
                earliest = ending.deadline
        rest = min(max(RESOLUTION, (self._loop.time() - now) / SHARE), MAX_REST)
        self.due, self._timer = math.inf, None
        try:
            for key in expired:
                self._on_expired(key)
        finally:
            if self.due > -math.inf:  # else it was closed by one of them
                self._rests_until = self._loop.time() + rest
                self._arm(min(earliest, self.due))


def clock_of(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """What returns the loop's time: the function behind ``loop.time`` itself, where that only calls it."""
    is_plain = isinstance(loop, asyncio.BaseEventLoop) and type(loop).time is asyncio.BaseEventLoop.time
    return time.monotonic if is_plain and "time" not in vars(loop) else loop.time
