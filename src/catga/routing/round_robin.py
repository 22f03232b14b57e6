"""`RoundRobin`: each candidate in turn."""

import os
import random
from collections.abc import Sequence

from catga.node import NodeInfo

_forks = 0
"""Forks between the first process and this one."""


def _count_fork() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count_fork)


class RoundRobin:
    """Each candidate in turn, counted per message type and service: an event that goes to several services
    goes round in each of them. The first of each is drawn at random, so that many senders of few calls reach all nodes.
    Each number of candidates has turns of its own: a call that one node has refused, and goes to another of the rest,
    takes nobody's turn.

    Args:
        seed: makes the first ones repeatable.
    """

    def __init__(self, seed: int | None = None) -> None:
        self._seed = seed
        self._drawn, self._forks = random.random(), _forks
        self._turns: dict[tuple[type, str, int], int] = {}

    def select(self, nodes: Sequence[NodeInfo], message: object) -> NodeInfo:
        """The next one."""
        count = len(nodes)
        if count == 1:
            return nodes[0]
        if self._forks != _forks:
            self._forked()
        key = (type(message), nodes[0].service, count)
        turn = self._turns.get(key, -1) + 1 or int(self._first(*key) * count)
        self._turns[key] = turn
        return nodes[turn % count]

    def _first(self, message_type: type, service: str, count: int) -> float:
        """The part of the nodes before the first one: the same at each look."""
        seed = self._drawn if self._seed is None else self._seed
        name = f"{message_type.__module__}.{message_type.__qualname__}"
        return random.Random(f"{seed} {name} {service} {count}").random()

    def _forked(self) -> None:
        """This is a child of the process that made it, and begins elsewhere."""
        self._drawn, self._forks = random.Random(f"{self._drawn} {os.getpid()}").random(), _forks
        self._turns.clear()

    def __repr__(self) -> str:
        return "RoundRobin()"
