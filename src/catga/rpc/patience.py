"""How long a call may wait for its place, and how long it would."""

from collections import deque
from time import perf_counter

HOPE = 0.8
"""The part of its time in which a call must have waited and run; else it is refused, while there is time for another
node."""
PACE = 8
"""So many calls, and four times as many as there are places, come forward in each of the two spans that tell a line's
pace."""


def patience(ttl: float, runs: float) -> float:
    """Seconds that a call may wait which has `ttl` seconds left, if its like run for `runs` seconds.

    One that begins later is a waste: it ends after its deadline, and a node that is full would run nothing else. `runs`
    may be that of other calls, or of failures: at most half of the time is kept for it.
    """
    return HOPE * ttl - min(runs, ttl / 2)


class Pace:
    """How quickly a line moves, while somebody waits in it.

    Args:
        limit: calls that run at once. They may end together, so each span has a multiple of as many.
    """

    __slots__ = ("_span", "_times")

    def __init__(self, limit: int) -> None:
        self._span = limit * (4 + -(-PACE // limit))
        self._times: deque[float] = deque(maxlen=2 * self._span + 1)

    def moved(self) -> None:
        """A call came forward while others wait."""
        self._times.append(perf_counter())

    def forget(self) -> None:
        """Nobody waits: what comes now is no matter of the pace."""
        self._times.clear()

    @property
    def seconds(self) -> float:
        """From one call that came forward to the next; 0 if that is not known.

        Of two spans the quicker one counts, so one long call, or a process that was stopped, is not taken for the pace.
        """
        times, span = self._times, self._span
        if len(times) <= 2 * span:
            return 0.0
        return min(times[span] - times[0], times[-1] - times[span]) / span
