"""`RoundRobin`: each candidate in turn."""

from collections.abc import Sequence

from catga.node import NodeInfo


class RoundRobin:
    """Each candidate in turn, counted per message type."""

    def __init__(self) -> None:
        self._turns: dict[type, int] = {}

    def select(self, nodes: Sequence[NodeInfo], message: object) -> NodeInfo:
        """The next one."""
        cls = type(message)
        turn = self._turns.get(cls, 0)
        self._turns[cls] = turn + 1
        return nodes[turn % len(nodes)]

    def __repr__(self) -> str:
        return "RoundRobin()"
