"""The default load of a node: how full it is, or how late its event loop runs, whichever is worse."""

import asyncio
import math

LATE = 0.25
"""Seconds of event-loop lag that count as full."""


class LoadMeter:
    """Measures the event loop's lag by a timer of its own."""

    def __init__(self, interval: float = 0.5) -> None:
        self._interval = interval
        self._loop = asyncio.get_running_loop()
        self._due = self._loop.time() + interval
        self._timer = self._loop.call_at(self._due, self._tick)
        self.lag = 0.0
        """Seconds, smoothed."""
        self.load = 0.0
        """The lag as a load: 0 none, 1 full."""

    def close(self) -> None:
        """Stop measuring."""
        self._timer.cancel()
        self._due = math.inf

    def now(self) -> float:
        """The load as it is now, while the event loop stands still, too. It may be called in any thread."""
        return max(self.load, min(self._lag(self._loop.time()) / LATE, 1.0))

    def _lag(self, now: float) -> float:
        return self.lag + 0.5 * (max(now - self._due, 0.0) - self.lag)

    def _tick(self) -> None:
        now = self._loop.time()
        self.lag = self._lag(now)
        if self.lag < 0.001:
            self.lag = 0.0
        self.load = min(self.lag / LATE, 1.0)
        self._due = now + self._interval
        self._timer = self._loop.call_at(self._due, self._tick)
