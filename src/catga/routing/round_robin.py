"""`RoundRobin`: each candidate in turn."""

import random
from collections.abc import Sequence

from catga.node import NodeInfo


class RoundRobin:
    """Each candidate in turn, counted per message type and service: an event that goes to several services
    goes round in each of them. The first of each is drawn at random, so that many senders of few calls reach all nodes.

    Args:
        seed: makes the first ones repeatable.
    """

    def __init__(self, seed: int | None = None) -> None:
        self._draw = random.random if seed is None else random.Random(seed).random  # a forked process draws its own
        self._turns: dict[tuple[type, str], int] = {}

    def select(self, nodes: Sequence[NodeInfo], message: object) -> NodeInfo:
        """The next one."""
        count = len(nodes)
        if count == 1:
            return nodes[0]
        key = (type(message), nodes[0].service)
        turn = self._turns.get(key, -1) + 1 or int(self._draw() * count)
        self._turns[key] = turn
        return nodes[turn % count]

    def __repr__(self) -> str:
        return "RoundRobin()"
