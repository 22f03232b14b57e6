"""Time passes only while I hear.

A node's age must not grow while its observer was deaf: cut off, frozen, suspended, or blocked. So ages are
measured in *hearing time*, which advances from one thing heard on the bus to the next, and only if the two
are close together. A longer silence proves that the observer was deaf, and every age starts anew.
"""

from collections.abc import Callable


class HearingClock:
    """Monotonic time less the silences. Drive it with `heard`; read ages off `now`.

    Args:
        clock: seconds, monotonic.
        max_gap: seconds; a silence longer than this was deafness.
    """

    def __init__(self, clock: Callable[[], float], max_gap: float) -> None:
        self._clock = clock
        self._max_gap = max_gap
        self._last = clock()
        self.now = 0.0
        """Seconds of hearing so far."""
        self.count = 0
        """Things heard so far."""
        self.resets = 0
        """How often a silence was too long. A stored time counts only within one value of this,"""
        self.reset_at = 0.0
        """for else it is this: the seconds of hearing at the end of the last such silence."""

    def heard(self) -> None:
        """Something came over the bus, be it this node's own echo."""
        time = self._clock()
        gap = time - self._last
        self._last = time
        self.count += 1
        if gap <= self._max_gap:
            self.now += gap
        else:
            self.resets += 1
            self.reset_at = self.now

    @property
    def silence(self) -> float:
        """Seconds since something was heard."""
        return self._clock() - self._last
