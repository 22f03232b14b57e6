"""`Random`: any candidate."""

import random
from collections.abc import Sequence

from catga.node import NodeInfo


class Random:
    """Any candidate, all alike.

    Args:
        seed: makes the choices repeatable.
    """

    def __init__(self, seed: int | None = None) -> None:
        self._random = random.Random(seed)

    def select(self, nodes: Sequence[NodeInfo], message: object) -> NodeInfo:
        """One of them."""
        return nodes[int(self._random.random() * len(nodes))]

    def __repr__(self) -> str:
        return "Random()"
