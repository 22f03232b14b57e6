"""Rates and percentiles of an interval, from what nodes counted at its begin and at its end."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from catga.cluster.stats import NodeStats, TypeStats
from catga.rpc.tally import BOUNDS


class Figures(NamedTuple):
    """What happened in an interval. Rates are a second, percentiles seconds (None: no calls)."""

    rate: float
    p50: float | None
    p99: float | None
    errors: float
    failovers: float


class Delta(NamedTuple):
    """Counts of an interval; adds up over nodes and types."""

    errors: int
    failovers: int
    histogram: Counter[int]


NOTHING = TypeStats()


def delta(before: NodeStats | None, now: NodeStats) -> dict[str, Delta]:
    """What a node counted in between, by wire name. A restarted node began at zero."""
    if before is None or before.pid != now.pid or before.uptime > now.uptime:
        before = NodeStats(node_id=now.node_id)
    return {name: _delta(before.types.get(name, NOTHING), stats) for name, stats in now.types.items()}


def _delta(before: TypeStats, now: TypeStats) -> Delta:
    histogram = Counter(now.histogram)
    histogram.subtract(before.histogram)
    return Delta(now.errors - before.errors, now.failovers - before.failovers, histogram)


def figures(deltas: Iterable[Delta], seconds: float) -> Figures:
    """The figures of several deltas together."""
    histogram: Counter[int] = Counter()
    errors = failovers = 0
    for part in deltas:
        histogram.update(part.histogram)
        errors += part.errors
        failovers += part.failovers
    calls = histogram.total()
    return Figures(
        calls / seconds, quantile(histogram, 0.5), quantile(histogram, 0.99), errors / seconds, failovers / seconds
    )


def quantile(histogram: Mapping[int, int], share: float) -> float | None:
    """Seconds that `share` of the calls did not exceed, at most a fifth too high; None without calls."""
    wanted = share * sum(histogram.values())
    seen = 0
    for index in sorted(histogram):
        seen += histogram[index]
        if seen >= wanted > 0:
            return BOUNDS[min(index, len(BOUNDS) - 1)]
    return None
