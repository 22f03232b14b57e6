"""`RoundRobin`: each candidate in turn."""

import os
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
        self._seed = seed
        self._drawn, self._pid = random.random(), os.getpid()
        self._turns: dict[tuple[type, str], int] = {}

    def select(self, nodes: Sequence[NodeInfo], message: object) -> NodeInfo:
        """The next one."""
        count = len(nodes)
        if count == 1:
            return nodes[0]
        key = (type(message), nodes[0].service)
        turn = self._turns.get(key, -1) + 1 or int(self._first(key) * count)
        self._turns[key] = turn
        return nodes[turn % count]

    def _first(self, key: tuple[type, str]) -> float:
        """The part of the nodes before the first one: the same at each look, and not in a process that was forked."""
        process = os.getpid()
        drawn = self._drawn if process == self._pid else (self._drawn, process)
        seed = drawn if self._seed is None else self._seed
        return random.Random(f"{seed} {key[0].__qualname__} {key[1]}").random()

    def __repr__(self) -> str:
        return "RoundRobin()"
