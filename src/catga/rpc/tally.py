"""What a node counts of the calls it runs, one tally a message type: about a quarter of a microsecond a call."""

from bisect import bisect_left

BOUNDS = tuple(1e-6 * 2 ** (step / 4) for step in range(112))
"""Upper bounds of the latency buckets, in seconds: four for each doubling, from 1 µs to 4 minutes. What takes
longer has a bucket more."""


class Tally:
    """Errors and latencies of the calls of one message type, since the node's start.

    Latency runs from the admission to the answer, waiting included.

    Attributes:
        waits: the last call's handler suspended.
        step: seconds that a handler runs until it first suspends, as of late.
        runs: seconds that a call runs which has waited for its place, or its turn, as of late.
    """

    __slots__ = ("errors", "histogram", "runs", "step", "waits")

    def __init__(self) -> None:
        self.errors = 0
        self.waits = False
        self.step = 0.0001
        self.runs = 0.0
        self.histogram = [0] * (len(BOUNDS) + 1)

    def add(self, seconds: float, ok: bool) -> None:
        """One call ended."""
        self.histogram[bisect_left(BOUNDS, seconds)] += 1
        if not ok:
            self.errors += 1

    def ran(self, seconds: float) -> None:
        """A call that had waited ended so long after. It may have been cut off: more is believed sooner than less."""
        self.runs += (seconds - self.runs) / (2 if seconds > self.runs else 8)
