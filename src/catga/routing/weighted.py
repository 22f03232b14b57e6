"""`Weighted`: by a weight in each node's metadata."""

import random
from bisect import bisect
from collections.abc import Sequence
from itertools import accumulate

from catga.node import NodeInfo
from catga.routing.candidates import Candidates


class Weighted:
    """At random, in proportion to the number that each node states in its metadata.

    A node with weight 0 gets nothing while another has more. What is no number counts as `default`.

    Args:
        field: the metadata's name.
        default: the weight of a node that states none.
        seed: makes the choices repeatable.
    """

    def __init__(self, field: str = "weight", *, default: float = 1.0, seed: int | None = None) -> None:
        if not 0 <= default < float("inf"):
            raise ValueError(f"default must be 0 or more, got {default}")
        self._field = field
        self._default = default
        self._random = random.Random(seed)

    def select(self, nodes: Sequence[NodeInfo], message: object) -> NodeInfo:
        """One of them."""
        sums = self._sums(Candidates.of(nodes))
        total = sums[-1]
        if total <= 0:
            return nodes[int(self._random.random() * len(nodes))]
        return nodes[min(bisect(sums, self._random.random() * total), len(nodes) - 1)]

    def _sums(self, nodes: Candidates) -> list[float]:
        name = ("weights", self._field, self._default)
        sums: list[float] | None = nodes.memo.get(name)
        if sums is None:
            sums = nodes.memo[name] = list(accumulate(self._weight(node) for node in nodes))
        return sums

    def _weight(self, node: NodeInfo) -> float:
        try:
            weight = float(node.metadata[self._field])
        except (KeyError, ValueError):
            return self._default
        return weight if 0 <= weight < 1e12 else self._default

    def __repr__(self) -> str:
        return f"Weighted({self._field!r})"
