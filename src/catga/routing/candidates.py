"""What a strategy chooses from: the candidates, and what this node has seen of them.

Strategies stay pure functions of their arguments: all they know beyond the members' records comes with the
sequence that they get.
"""

import time
from collections.abc import Callable, Hashable, Iterable, Sequence, Set
from math import exp
from typing import Any

from catga.node import NodeInfo

TAU = 2.0
"""Seconds after which a latency counts for 1/e: a slow spell that was a hundred times as long is forgotten in ten."""
SOON = 0.001
"""Seconds after a sample in which only a worse one counts: a busy node's are close together."""
STALE = 1.0
"""Seconds without a success after which the latency of a node that answers with failures is theirs."""
MUCH = 0.25
"""How much greater the failing share of a node must be than that of another, so that the other is always preferred."""


class NodeStats:
    """What this node has seen of another: live, read it and let it go."""

    __slots__ = (
        "_counted_at",
        "_latency",
        "_load",
        "_quiet_since",
        "_stamp",
        "_usual_at",
        "_usual_load",
        "_well_at",
        "clock",
        "has_failed",
        "inflight",
        "node_id",
        "trouble",
    )

    def __init__(
        self, node_id: str, load: Callable[[str], float] | None = None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.node_id = node_id
        self.inflight = 0
        """This node's own calls to it without an answer."""
        self.trouble = 0.0
        """`failing` as of the latest call that counted: 0 as long as there is no failure to tell of."""
        self.has_failed = False
        """Whether `latency` tells of failures alone, as there is nothing else: the node may be slower than that."""
        self._counted_at = 0.0
        self._load = load
        self.clock = clock
        self._latency = 0.0
        self._stamp = 0.0
        self._quiet_since = 0.0
        self._well_at = 0.0  # when a value came; of those of a busy node one in a millisecond
        self._usual_load = 0.0
        self._usual_at = 0.0  # when that was worked out; 0 for never

    @property
    def load(self) -> float:
        """The load it last reported (every reply carries it): 0 idle, 1 full, more while calls queue."""
        return 0.0 if self._load is None else self._load(self.node_id)

    @property
    def usual_load(self) -> float:
        """`load`, averaged over the last seconds: what is going on within them shows in `inflight` and `latency`."""
        load, clock = self.load, self.clock
        now = clock()
        share = 1.0 - exp((self._usual_at - now) / TAU) if self._usual_at else 1.0
        self._usual_load += (load - self._usual_load) * share
        self._usual_at = now
        return self._usual_load

    @property
    def latency(self) -> float:
        """Seconds a call takes: at once as high as the worst, coming down within seconds, 0 while unknown.

        A failure never lowers it: how fast a node fails says nothing of how fast it works.

        The peak-sensitive, exponentially weighted average of Finagle's ``PeakEwma``. It sinks while nothing is
        measured, so that a node that was slow is tried again; and it is never less than the time for which a
        node has owed answers and given none, so that a stuck one is avoided before its calls time out.
        """
        if not self._latency:
            return 0.0
        now = self.clock()
        average = self._latency * exp((self._stamp - now) / TAU)
        return max(average, now - self._quiet_since) if self.inflight else average

    @property
    def failing(self) -> float:
        """The part of the latest calls that failed or were refused, from 0 to 1. It sinks while none ends, so that a
        node that failed is tried again."""
        return self.trouble and self.trouble * exp((self._counted_at - self.clock()) / TAU)

    def started(self) -> float:
        """A call to the node starts. Returns the time, for `ended`."""
        clock = self.clock  # apart from its call: the interpreter would look for a method, each time
        now = clock()
        if not self.inflight:
            self._quiet_since = now
        self.inflight += 1
        return now

    def ended(self, started: float | None, answered: bool = True) -> None:
        """A call to the node ended, and did not fail.

        Args:
            started: as returned by `started()`; None if the time that it took says nothing.
            answered: whether a value arrived; else the caller gave up.
        """
        self.inflight -= 1
        clock = self.clock
        now = clock()
        if answered:
            self._quiet_since = now
        if started is not None:
            seconds = now - started
            # As in `took`, whose call costs more.
            if seconds >= self._latency or now - self._stamp >= SOON or self.trouble:
                self.took(seconds, now, answered)

    def failed(self, started: float | None, *, answered: bool = True, is_fault: bool = True) -> None:
        """A call to the node ended by an error.

        Args:
            started: as in `ended`.
            answered: whether the error is the node's answer.
            is_fault: whether the node is to blame. If not, the error is an answer as good as a value, but for the time
                that it took.
        """
        self.inflight -= 1
        clock = self.clock
        now = clock()
        if is_fault or self.trouble:
            self._count(1.0 if is_fault else 0.0, now)
        if answered:
            self._quiet_since = now
            if not self.has_failed and now - self._well_at > STALE:
                self._latency, self.has_failed = 0.0, True
        if started is not None:
            self.took(now - started, now, answered=False)

    def took(self, seconds: float, now: float, answered: bool = True) -> None:
        """A call to the node took so long, until `now`. If no value arrived, it would have taken longer."""
        if answered:
            self._quiet_since = self._well_at = now
            if self.trouble:
                self._count(0.0, now)
        if seconds < self._latency and now - self._stamp < SOON:
            return
        weight = exp((self._stamp - now) / TAU)
        if seconds >= self._latency * weight:
            self._latency = seconds
            if answered:
                self.has_failed = False
        elif not answered:
            return
        elif self.has_failed:
            self._latency, self.has_failed = seconds, False
        else:
            # Those of a busy node count for a hundredth at least.
            if weight > 0.99:
                weight = 0.99
            self._latency = self._latency * weight + seconds * (1 - weight)
        self._stamp = now

    def _count(self, failed: float, now: float) -> None:
        """Mix a call that has `failed` (1) or not (0) into the failing share: it counts for a twentieth at least."""
        weight = min(exp((max(self._counted_at, self._stamp) - now) / TAU), 0.95)
        share = self.trouble * weight + failed * (1.0 - weight)
        self.trouble = share if share > 0.001 else 0.0
        self._counted_at = now

    def forget(self) -> None:
        """What was measured means nothing any more."""
        self._latency = self.trouble = 0.0
        self.has_failed = False

    def __repr__(self) -> str:
        seen = f"latency={self.latency:.6f}, failing={self.failing:.3f}, load={self.load}"
        return f"NodeStats({self.node_id!r}, inflight={self.inflight}, {seen})"


class Stats(dict[str, NodeStats]):
    """`NodeStats` by ``node_id``; those of a node nobody asked for yet are empty.

    Args:
        load: a node's latest reported load.
        clock: seconds, monotonic.
    """

    def __init__(
        self, load: Callable[[str], float] | None = None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        super().__init__()
        self._load = load
        self._clock = clock

    def __missing__(self, node_id: str) -> NodeStats:
        found = self[node_id] = NodeStats(node_id, self._load, self._clock)
        return found


class Candidates(tuple[NodeInfo, ...]):
    """The nodes to choose from, sorted by ``node_id``, with what is known of them.

    The same object comes again until a node joins, leaves, or changes its state or its metadata. The ``load``
    in the records is as old as that; the latest is in `stats`.

    Attributes:
        stats: this node's own calls, latencies and reported loads, by ``node_id``.
        local_id: this node's id.
        whole: the candidates before some were left out (for a retry, or as outliers): itself if none are.
        excluded: ids of those left out.
        memo: where strategies keep what they work out from these nodes; gone when the members change.
    """

    stats: Stats
    local_id: str
    whole: "Candidates"
    excluded: frozenset[str]
    memo: dict[Hashable, Any]

    def __new__(cls, nodes: Iterable[NodeInfo] = (), stats: Stats | None = None, local_id: str = "") -> "Candidates":
        self = super().__new__(cls, nodes)
        self.stats = _recorded(self) if stats is None else stats
        self.local_id = local_id
        self.whole = self
        self.excluded = frozenset()
        self.memo = {}
        return self

    @staticmethod
    def of(nodes: Sequence[NodeInfo]) -> "Candidates":
        """`nodes` itself, or what a plain sequence knows: the records."""
        return nodes if isinstance(nodes, Candidates) else Candidates(nodes)

    def by_id(self, node_id: str) -> NodeInfo | None:
        """One of them; None if it is left out or no candidate."""
        if node_id in self.excluded:
            return None
        index: dict[str, NodeInfo] | None = self.whole.memo.get("by_id")
        if index is None:
            index = self.whole.memo["by_id"] = {node.node_id: node for node in self.whole}
        return index.get(node_id)

    def without(self, ids: Set[str]) -> "Candidates":
        """The whole but those with these ids. The same object for the same ids in a row."""
        if not ids:
            return self.whole
        last: Candidates | None = self.whole.memo.get("without")
        if last is not None and last.excluded == ids:
            return last
        rest = Candidates([n for n in self.whole if n.node_id not in ids], self.stats, self.local_id)
        rest.whole = self.whole
        rest.excluded = frozenset(ids)
        self.whole.memo["without"] = rest
        return rest

    def only(self, name: Hashable, keep: Callable[[NodeInfo], bool]) -> "Candidates":
        """Those that `keep` wants, as candidates of their own; worked out once a `name`."""
        part: Candidates | None = self.whole.memo.get(("only", name))
        if part is None:
            part = Candidates(filter(keep, self.whole), self.stats, self.local_id)
            self.whole.memo["only", name] = part
        return part.without(self.excluded) if self.excluded else part


def fails_more(stats: NodeStats, others: Iterable[NodeStats]) -> bool:
    """Whether a node fails much more of its calls than the best of `others`."""
    return stats.trouble > MUCH and stats.failing > MUCH + min((other.failing for other in others), default=1.0)


def _recorded(nodes: Iterable[NodeInfo]) -> Stats:
    loads = {node.node_id: node.load for node in nodes}
    return Stats(lambda node_id: loads.get(node_id, 0.0))
