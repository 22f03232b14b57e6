"""Filters: a strategy that lets another choose among some of the candidates."""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from catga.abc import RoutingStrategy
from catga.errors import NoNodeAvailableError
from catga.node import NodeInfo
from catga.routing.candidates import Candidates, fails_more
from catga.routing.inner import check_inner, chooses_by_key, reasons_of
from catga.routing.round_robin import RoundRobin


class Where:
    """Only nodes whose metadata fits; `then` chooses among them.

    ``Where(version="2", then=LoadBased())`` or ``Where(lambda node: node.endpoint != "", then=...)``.

    Args:
        predicate: a pure function of the record; asked when the members change, not at each call.
        then: `RoundRobin` by default.
        metadata: names and the values they must have.
    """

    def __init__(
        self,
        predicate: Callable[[NodeInfo], bool] | None = None,
        /,
        *,
        then: RoutingStrategy | None = None,
        **metadata: str,
    ) -> None:
        if predicate is None and not metadata:
            raise ValueError('Where needs a predicate or metadata, e.g. Where(zone="a")')
        self._predicate = predicate
        self._metadata = metadata
        self._then: RoutingStrategy = RoundRobin() if then is None else then

    def select(self, nodes: Sequence[NodeInfo], message: object) -> NodeInfo:
        """What `then` chooses among those that fit.

        Raises:
            NoNodeAvailableError: none fits.
        """
        fitting = Candidates.of(nodes).only(self, self._fits)
        if not fitting:
            raise NoNodeAvailableError(f"none of the {len(nodes)} nodes that could take this message fits {self._text}")
        return self._then.select(fitting, message)

    @property
    def chooses_by_key(self) -> bool:
        """Whether `then` does."""
        return chooses_by_key(self._then)

    def check(self, message_type: type) -> None:
        """Raise InvalidMessageError if `then` cannot route this type."""
        check_inner(self._then, message_type)

    def reasons(self, nodes: Candidates) -> Iterator[tuple[str, str]]:
        """(node_id, why it is not chosen) of those filtered out."""
        fitting = nodes.only(self, self._fits)
        out = ((n.node_id, f"does not fit {self._text}") for n in nodes if fitting.by_id(n.node_id) is None)
        return chain(out, reasons_of(self._then, fitting))

    @property
    def _text(self) -> str:
        parts = [f"{name}={value!r}" for name, value in self._metadata.items()]
        if self._predicate is not None:
            parts.insert(0, getattr(self._predicate, "__qualname__", repr(self._predicate)))
        return ", ".join(parts)

    def _fits(self, node: NodeInfo) -> bool:
        metadata = node.metadata
        return all(metadata.get(name) == value for name, value in self._metadata.items()) and (
            self._predicate is None or self._predicate(node)
        )

    def __repr__(self) -> str:
        return f"Where({self._text}, then={self._then!r})"


class PreferZone:
    """Nodes of one zone while there are any, and while one of them is not overloaded, and does not fail much more of
    its calls than another node does; else the others too.

    Args:
        zone: the preferred one.
        then: chooses among the nodes; `RoundRobin` by default.
        max_load: when all nodes of the zone report this load, calls spill over.
        field: the metadata's name that has the zone.
    """

    def __init__(
        self, zone: str, then: RoutingStrategy | None = None, *, max_load: float = 1.0, field: str = "zone"
    ) -> None:
        if not max_load > 0:
            raise ValueError(f"max_load must be positive, got {max_load}")
        self._zone = zone
        self._then: RoutingStrategy = RoundRobin() if then is None else then
        self._max_load = max_load
        self._field = field

    def select(self, nodes: Sequence[NodeInfo], message: object) -> NodeInfo:
        """What `then` chooses, in the zone if it can be."""
        candidates = Candidates.of(nodes)
        near = self._near(candidates)
        return self._then.select(near if self._is_well(near, candidates) else nodes, message)

    @property
    def chooses_by_key(self) -> bool:
        """Whether `then` does."""
        return chooses_by_key(self._then)

    def check(self, message_type: type) -> None:
        """Raise InvalidMessageError if `then` cannot route this type."""
        check_inner(self._then, message_type)

    def reasons(self, nodes: Candidates) -> Iterator[tuple[str, str]]:
        """(node_id, why it is not chosen) of those outside the zone, unless calls spill over now."""
        near = self._near(nodes)
        if not self._is_well(near, nodes):
            return reasons_of(self._then, nodes)
        far = ((n.node_id, f"is not in the zone {self._zone!r}") for n in nodes if near.by_id(n.node_id) is None)
        return chain(far, reasons_of(self._then, near))

    def _is_well(self, near: Candidates, nodes: Candidates) -> bool:
        """Whether one of those `near` is neither overloaded nor fails more than the best of all `nodes`."""
        stats, max_load = nodes.stats, self._max_load
        return any(
            each.load < max_load and not (each.trouble and fails_more(each, (stats[node.node_id] for node in nodes)))
            for each in (stats[node.node_id] for node in near)
        )

    def _near(self, nodes: Candidates) -> Candidates:
        return nodes.only(self, lambda node: node.metadata.get(self._field) == self._zone)

    def __repr__(self) -> str:
        return f"PreferZone({self._zone!r}, then={self._then!r})"
