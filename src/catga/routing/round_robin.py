"""`RoundRobin`: each candidate in turn."""

from collections.abc import Sequence

from catga.node import NodeInfo


class RoundRobin:
    """Each candidate in turn, counted per message type and service: an event that goes to several services
    goes round in each of them."""

    def __init__(self) -> None:
        self._turns: dict[tuple[type, str], int] = {}

    def select(self, nodes: Sequence[NodeInfo], message: object) -> NodeInfo:
        """The next one."""
        count = len(nodes)
        if count == 1:
            return nodes[0]
        key = (type(message), nodes[0].service)
        turn = self._turns[key] = self._turns.get(key, -1) + 1
        return nodes[turn % count]

    def __repr__(self) -> str:
        return "RoundRobin()"
