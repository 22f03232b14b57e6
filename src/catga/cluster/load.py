"""The default load of a node: how full it is, or how late its event loop runs, whichever is worse."""

import asyncio

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

    def _tick(self) -> None:
        now = self._loop.time()
        self.lag += 0.5 * (max(now - self._due, 0.0) - self.lag)
        if self.lag < 0.001:
            self.lag = 0.0
        self.load = min(self.lag / LATE, 1.0)
        self._due = now + self._interval
        self._timer = self._loop.call_at(self._due, self._tick)
