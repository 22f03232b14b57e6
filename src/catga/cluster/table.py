"""Who can take a message: the candidates of each type, worked out when the membership changes."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from catga.membership import View
from catga.node import NodeInfo, NodeState


class Candidates(NamedTuple):
    """The nodes that handle one message type, as of one version of the view."""

    version: int
    nodes: tuple[NodeInfo, ...]
    """Those to choose from: alive; if there are none, suspects (a suspect is better than nobody)."""
    services: tuple[tuple[NodeInfo, ...], ...]
    """The same, one tuple a service."""


class RoutingTable:
    """Candidates by wire name. The same tuples until the view changes, so strategies may keep work on them."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._cached: dict[str, Candidates] = {}
        self._ever: set[str] = set()

    def candidates(self, name: str) -> Candidates:
        """The candidates for a message type, from memory."""
        cached = self._cached.get(name)
        if cached is None or cached.version != self._view.version:
            cached = self._cached[name] = self._work_out(name)
        return cached

    def was_handled(self, name: str) -> bool:
        """Whether some node has handled this type since this one joined."""
        return name in self._ever

    def handled(self) -> dict[str, list[str]]:
        """Wire name → ids of the nodes that handle it, for error messages."""
        names: dict[str, list[str]] = {}
        for node in self._view.nodes():
            for name in node.handles:
                names.setdefault(name, []).append(node.node_id)
        return names

    def _work_out(self, name: str) -> Candidates:
        able = [node for node in self._view.nodes() if name in node.handles]
        if able:
            self._ever.add(name)
        alive = tuple(node for node in able if node.state is NodeState.ALIVE)
        nodes = alive or tuple(node for node in able if node.state is NodeState.SUSPECT)
        by_service: dict[str, list[NodeInfo]] = {}
        for node in able:
            if node.state is not NodeState.DRAINING:
                by_service.setdefault(node.service, []).append(node)
        services = tuple(_preferred(group) for _, group in sorted(by_service.items()))
        return Candidates(self._view.version, nodes, services)


def _preferred(group: Sequence[NodeInfo]) -> tuple[NodeInfo, ...]:
    return tuple(n for n in group if n.state is NodeState.ALIVE) or tuple(group)


Pool = Callable[[], Sequence[NodeInfo]]
"""The candidates of one delivery, asked anew before each attempt."""
