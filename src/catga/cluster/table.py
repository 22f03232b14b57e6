"""Who can take a message: the candidates of each type, worked out when the membership changes."""

from collections.abc import Callable, Sequence

import msgspec

from catga.membership import View
from catga.node import NodeInfo, NodeState
from catga.routing import Candidates, Stats


class Routes(msgspec.Struct, frozen=True):
    """The nodes that handle one message type, as of one version of the view."""

    version: int
    nodes: Candidates
    """Those to choose from: alive; if there are none, suspects (a suspect is better than nobody)."""
    services: tuple[Candidates, ...]
    """The same, one a service."""


class RoutingTable:
    """Candidates by wire name. The same objects until the members change, so strategies may keep work on them."""

    def __init__(self, view: View, stats: Stats, local_id: str) -> None:
        self._view = view
        self._stats = stats
        self._local_id = local_id
        self._cached: dict[str, Routes] = {}
        self._ever: set[str] = set()

    def routes(self, name: str) -> Routes:
        """The candidates for a message type, from memory."""
        cached = self._cached.get(name)
        if cached is None or cached.version != self._view.version:
            cached = self._cached[name] = self._work_out(name, cached)
        return cached

    def pool(self, name: str) -> "Pool":
        """What gives the same, whatever their service."""

        def nodes() -> Candidates:
            cached = self._cached.get(name)  # once more what `routes` does: on the path of every request
            if cached is not None and cached.version == self._view.version:
                return cached.nodes
            return self.routes(name).nodes

        return nodes

    def alone(self, node: NodeInfo) -> Candidates:
        """One node to choose from."""
        return Candidates((node,), self._stats, self._local_id)

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

    def _work_out(self, name: str, former: Routes | None) -> Routes:
        able = [node for node in self._view.nodes() if name in node.handles]
        if able:
            self._ever.add(name)
        by_service: dict[str, list[NodeInfo]] = {}
        for node in able:
            if node.state is not NodeState.DRAINING:
                by_service.setdefault(node.service, []).append(node)
        known = {} if former is None else {group[0].service: group for group in former.services}
        nodes = self._candidates(able, None if former is None else former.nodes)
        groups = sorted(by_service.items())
        if len(groups) == 1:
            services: tuple[Candidates, ...] = (nodes,)
        else:
            services = tuple(self._candidates(group, known.get(service)) for service, group in groups)
        return Routes(self._view.version, nodes, services)

    def _candidates(self, able: Sequence[NodeInfo], former: Candidates | None) -> Candidates:
        """Those of `able` to choose from: `former` itself if nothing that matters to routing has changed."""
        alive = [node for node in able if node.state is NodeState.ALIVE]
        nodes = alive or [node for node in able if node.state is NodeState.SUSPECT]
        if former is not None and len(former) == len(nodes) and all(map(_same, former, nodes)):
            return former
        return Candidates(nodes, self._stats, self._local_id)


def _same(a: NodeInfo, b: NodeInfo) -> bool:
    return a is b or (
        a.node_id == b.node_id
        and a.incarnation == b.incarnation
        and a.state is b.state
        and a.metadata == b.metadata
        and a.endpoint == b.endpoint
        and a.service == b.service
    )


Pool = Callable[[], Candidates]
"""The candidates of one delivery, asked anew before each attempt."""
