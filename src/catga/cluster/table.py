"""Who can take a message: the candidates of each type, worked out when the membership changes."""

from collections.abc import Callable, Sequence

import msgspec

from catga.cluster.departed import Departed
from catga.membership import View
from catga.node import NodeChangeEvent, NodeInfo, NodeState
from catga.routing import Candidates, Stats

NOBODY = Candidates()


class Routes(msgspec.Struct, frozen=True):
    """The nodes that handle one message type, as of one version of the view."""

    version: int
    nodes: Candidates
    """Those to choose from: alive; if there are none, suspects (a suspect is better than nobody); if there are none
    either, this node itself while it drains."""
    services: tuple[Candidates, ...]
    """The same, one a service."""
    leaving: tuple[str, ...]
    """Services all of whose nodes are draining."""


class RoutingTable:
    """Candidates by wire name. The same objects until the members change, so strategies may keep work on them.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, view: View, stats: Stats, local_id: str, clock: Callable[[], float]) -> None:
        self._view = view
        self._stats = stats
        self._local_id = local_id
        self._cached: dict[str, Routes] = {}
        self._departed = Departed(clock)
        self._takes_own = True

    def close(self) -> None:
        """This node runs nothing more, not even what it sends to itself."""
        self._takes_own = False
        self._cached.clear()

    def changed(self, event: NodeChangeEvent) -> None:
        """Remember who leaves: call it with every change of the view."""
        self._departed.changed(event)

    def routes(self, name: str) -> Routes:
        """The candidates for a message type, from memory."""
        cached = self._cached.get(name)
        if cached is None or cached.version != self._view.version:
            cached = self._cached[name] = self._work_out(name, cached)
        return cached

    def services(self, name: str) -> list[str]:
        """The services that handle a message type, sorted, and those that did a moment ago but have no node now."""
        routes = self.routes(name)
        here = [group[0].service for group in routes.services]
        missed = self._departed.services(name).union(routes.leaving)
        return sorted(missed.union(here)) if missed else here

    def pool_of(self, service: str, name: str) -> "Pool":
        """Return a function that returns the current candidates for `name` in one service."""

        def nodes() -> Candidates:
            groups = self.routes(name).services
            return next((group for group in groups if group[0].service == service), NOBODY)

        return nodes

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
        """Whether a member handles this type, or one that has left since this node joined did."""
        return self._departed.has_handled(name) or any(name in node.handles for node in self._view.nodes())

    def handled(self) -> dict[str, list[str]]:
        """Wire name → ids of the nodes that handle it, for error messages."""
        names: dict[str, list[str]] = {}
        for node in self._view.nodes():
            for name in node.handles:
                names.setdefault(name, []).append(node.node_id)
        return names

    def _work_out(self, name: str, former: Routes | None) -> Routes:
        able = [node for node in self._view.nodes() if name in node.handles]
        by_service: dict[str, list[NodeInfo]] = {}
        for node in able:
            if node.state is not NodeState.DRAINING or self._is_own(node):
                by_service.setdefault(node.service, []).append(node)
        known = {} if former is None else {group[0].service: group for group in former.services}
        nodes = self._candidates(able, None if former is None else former.nodes)
        groups = sorted(by_service.items())
        if len(groups) == 1:
            services: tuple[Candidates, ...] = (nodes,)
        else:
            services = tuple(self._candidates(group, known.get(service)) for service, group in groups)
        leaving = {node.service for node in able}.difference(by_service)
        return Routes(self._view.version, nodes, services, tuple(leaving))

    def _candidates(self, able: Sequence[NodeInfo], former: Candidates | None) -> Candidates:
        """Those of `able` to choose from: `former` itself if nothing that matters to routing has changed."""
        alive = [node for node in able if node.state is NodeState.ALIVE]
        nodes = alive or [node for node in able if node.state is NodeState.SUSPECT]
        if not nodes:  # it drains: what it accepted may need this, too
            nodes = [node for node in able if self._is_own(node)]
        if former is not None and len(former) == len(nodes) and all(map(_same, former, nodes)):
            return former
        return Candidates(nodes, self._stats, self._local_id)

    def _is_own(self, node: NodeInfo) -> bool:
        return self._takes_own and node.node_id == self._local_id


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
