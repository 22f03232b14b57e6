"""`LocalFirst`: this node itself, while it can."""

from collections.abc import Iterator, Sequence

from catga.abc import RoutingStrategy
from catga.node import NodeInfo
from catga.routing.candidates import Candidates, fails_more
from catga.routing.inner import check_inner, chooses_by_key, reasons_of
from catga.routing.round_robin import RoundRobin


class LocalFirst:
    """This node, if it handles the message, is not overloaded, and does not fail much more of its calls than another
    does; else as `then` says, among the others.

    A local call is not serialized and does not touch the bus.

    Args:
        then: picks among the other nodes; `RoundRobin` by default.
        max_load: the load of this node from which calls spill over to the others.
    """

    def __init__(self, then: RoutingStrategy | None = None, *, max_load: float = 0.8) -> None:
        if not max_load > 0:
            raise ValueError(f"max_load must be positive, got {max_load}")
        self._then: RoutingStrategy = RoundRobin() if then is None else then
        self._max_load = max_load

    def select(self, nodes: Sequence[NodeInfo], message: object) -> NodeInfo:
        """This node, or what `then` picks."""
        candidates = Candidates.of(nodes)
        local = candidates.by_id(candidates.local_id)
        if local is None:
            return self._then.select(nodes, message)
        if len(candidates) == 1:
            return local
        stats = candidates.stats
        mine = stats[local.node_id]
        if mine.load < self._max_load and not mine.trouble:
            return local
        others = candidates.only(("not", local.node_id), lambda node: node.node_id != local.node_id)
        if mine.load < self._max_load and not fails_more(mine, (stats[node.node_id] for node in others)):
            return local
        return self._then.select(others, message)

    @property
    def chooses_by_key(self) -> bool:
        """Whether `then` does."""
        return chooses_by_key(self._then)

    def check(self, message_type: type) -> None:
        """Raise InvalidMessageError if `then` cannot route this type."""
        check_inner(self._then, message_type)

    def reasons(self, nodes: Candidates) -> Iterator[tuple[str, str]]:
        """(node_id, why it is not chosen) of those filtered out."""
        return ((i, reason) for i, reason in reasons_of(self._then, nodes) if i != nodes.local_id)

    def __repr__(self) -> str:
        return f"LocalFirst(then={self._then!r})"
