"""`LoadBased`: where the answer will come first, as far as this node can see."""

import random
from collections.abc import Sequence

from catga.node import NodeInfo
from catga.routing.candidates import MUCH, Candidates, NodeStats, Stats

UNKNOWN = 1.0
"""Seconds that a node is taken to need while a first call to it is unanswered."""
UNTRIED = 1e-9
"""Of a call: less than any other, and enough to prefer the idle one of two nodes that were never measured."""


class LoadBased:
    """Of two nodes drawn at random, the one that will answer earlier: by this sender's calls in flight to it,
    the load it reports with every reply, and how long it took lately.

    A slow or stuck node gets few calls as soon as its first ones are late, long before anything fails. Two are
    enough, and senders that do not know of each other do not all run to the same node.

    A node that fails is quick to answer and has nothing in flight, so neither counts for it: of two nodes the one
    that fails a quarter more of its calls is not chosen, and one that fails a little more is dearer by that. Where all
    fail alike, this changes nothing.

    M. Mitzenmacher, "The power of two choices in randomized load balancing", IEEE TPDS 2001; the cost is that
    of Finagle's and linkerd's ``peak EWMA``.

    Args:
        least: draw the two from those with the fewest calls in flight, and a third from all: better for few senders,
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
        everyone = range(len(nodes))
        if not self._least:
            return nodes[self._cheaper_of_two(nodes, everyone, stats)]
        inflight = [stats[node.node_id].inflight for node in nodes]
        fewest = min(inflight)
        found = self._cheaper_of_two(nodes, [i for i in everyone if inflight[i] == fewest], stats)
        return nodes[_cheaper(nodes, found, self._another(everyone, found), stats)]  # for those may all be full

    def _cheaper_of_two(self, nodes: Sequence[NodeInfo], places: Sequence[int], stats: Stats) -> int:
        first = int(self._random.random() * len(places))
        return _cheaper(nodes, places[first], self._another(places, first), stats)

    def _another(self, places: Sequence[int], first: int) -> int:
        """Draw one that is not the `first`, if there is one."""
        count = len(places)
        second = int(self._random.random() * (count - 1))
        return places[second if second < first else (second + 1) % count]

    def __repr__(self) -> str:
        return "LoadBased(least=True)" if self._least else "LoadBased()"


def cost(stats: NodeStats, other: NodeStats) -> float:
    """About how many seconds until a node would have answered one more call.

    A node that was never measured costs nothing, until a call to it is under way: it gets one, to be measured. One
    that answers, but only with failures, is taken to be as slow as the `other` at least.
    """
    latency = stats.latency
    if stats.has_failed:
        latency = max(latency, other.latency) or UNKNOWN
    elif not latency:
        return UNKNOWN * (stats.inflight + UNTRIED) * waiting(stats.usual_load)
    return latency * (stats.inflight + 1) * waiting(stats.usual_load)


def waiting(load: float) -> float:
    """How many times dearer a node with this load is than an idle one: 5 at a half, 16 if it is full."""
    return (1.0 + load) ** 4


def _cheaper(nodes: Sequence[NodeInfo], a: int, b: int, stats: Stats) -> int:
    one, other = stats[nodes[a].node_id], stats[nodes[b].node_id]
    if one.trouble or other.trouble:
        return a if _is_better(one, other) else b
    return a if cost(one, other) <= cost(other, one) else b


def _is_better(one: NodeStats, other: NodeStats) -> bool:
    """Whether the first of two nodes should have the call, where one of them has failed lately."""
    if _is_tried(one) is not _is_tried(other):
        return _is_tried(other)
    more = (one.failing - other.failing) / MUCH
    if more > 0:
        return cost(one, other) <= cost(other, one) * (1.0 - more)
    return cost(one, other) * (1.0 + more) <= cost(other, one)


def _is_tried(stats: NodeStats) -> bool:
    """Whether a call to a node that only failed is to show if it works again: it gets no second one meanwhile."""
    return stats.has_failed and stats.trouble > 0 and stats.inflight > 0
