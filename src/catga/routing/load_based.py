"""`LoadBased`: where the answer will come first, as far as this node can see."""

import random
from collections.abc import Sequence

from catga.node import NodeInfo
from catga.routing.candidates import Candidates, NodeStats, Stats

UNKNOWN = 1.0
"""Seconds that a node is taken to need while a first call to it is unanswered."""


class LoadBased:
    """Of two nodes drawn at random, the one that will answer earlier: by this sender's calls in flight to it,
    the load it reports with every reply, and how long it took lately.

    A slow or stuck node gets few calls as soon as its first ones are late, long before anything fails. Two are
    enough, and senders that do not know of each other do not all run to the same node.

    M. Mitzenmacher, "The power of two choices in randomized load balancing", IEEE TPDS 2001; the cost is that
    of Finagle's and linkerd's ``peak EWMA``.

    Args:
        least: draw the two from those with the fewest calls in flight, not from all: better for few senders,
            dearer with many nodes (10 µs a call for 100 of them).
        seed: makes the draws repeatable.
    """

    def __init__(self, *, least: bool = False, seed: int | None = None) -> None:
        self._least = least
        self._random = random.Random(seed)

    def select(self, nodes: Sequence[NodeInfo], message: object) -> NodeInfo:
        """The cheaper of two."""
        if len(nodes) == 1:
            return nodes[0]
        stats = Candidates.of(nodes).stats
        if self._least:
            inflight = [stats[node.node_id].inflight for node in nodes]
            fewest = min(inflight)
            nodes = [node for node, count in zip(nodes, inflight, strict=True) if count == fewest]
        return self._cheaper_of_two(nodes, stats)

    def _cheaper_of_two(self, nodes: Sequence[NodeInfo], stats: Stats) -> NodeInfo:
        count = len(nodes)
        first = int(self._random.random() * count)
        second = int(self._random.random() * (count - 1))
        a, b = nodes[first], nodes[second if second < first else (second + 1) % count]
        return a if cost(stats[a.node_id]) <= cost(stats[b.node_id]) else b

    def __repr__(self) -> str:
        return "LoadBased(least=True)" if self._least else "LoadBased()"


def cost(stats: NodeStats) -> float:
    """About how many seconds until a node would have answered one more call.

    A node that was never measured costs nothing, until a call to it is under way: it gets one, to be measured.
    """
    latency = stats.latency
    if not latency:
        return UNKNOWN * stats.inflight * (1.0 + stats.load)
    return latency * (stats.inflight + 1) * (1.0 + stats.load)
