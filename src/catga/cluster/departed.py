"""Who left a moment ago, and what it handled: its service may be about to come back."""

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from catga.node import NodeChangeEvent, NodeChangeType, NodeInfo

MEMORY = 60.0
"""Seconds for which a service without a node is waited for, after the last one left."""
MAX_NODES = 1_024
"""Nodes remembered; beyond it the oldest is forgotten."""
MAX_NAMES = 10_000
"""Wire names remembered; beyond it the oldest is forgotten."""


class _Left(NamedTuple):
    service: str
    handles: frozenset[str]
    at: float


class Departed:
    """The nodes that left within `MEMORY` seconds. One that comes back under its id tells anew what it handles.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._left: OrderedDict[str, _Left] = OrderedDict()
        self._services: dict[str, frozenset[str]] = {}  # by wire name, worked out once
        self._names: dict[str, None] = {}

    def changed(self, event: NodeChangeEvent) -> None:
        """Take in a change of the members."""
        if event.type is NodeChangeType.LEFT and event.node.handles:
            self._add(event.node)
        elif event.type is NodeChangeType.JOINED and self._left.pop(event.node.node_id, None) is not None:
            self._services.clear()

    def services(self, name: str) -> frozenset[str]:
        """The services of which a node that handled this wire name left a moment ago."""
        if not self._left:
            return frozenset()
        self._forget()
        found = self._services.get(name)
        if found is None:
            found = frozenset(left.service for left in self._left.values() if name in left.handles)
            self._services[name] = found
        return found

    def has_handled(self, name: str) -> bool:
        """Whether some node that has left, however long ago, handled this wire name."""
        return name in self._names

    def _add(self, node: NodeInfo) -> None:
        self._left.pop(node.node_id, None)
        self._left[node.node_id] = _Left(node.service, frozenset(node.handles), self._clock())
        if len(self._left) > MAX_NODES:
            self._left.popitem(last=False)
        self._services.clear()
        for name in node.handles:
            self._names.pop(name, None)
            self._names[name] = None
        while len(self._names) > MAX_NAMES:
            del self._names[next(iter(self._names))]

    def _forget(self) -> None:
        horizon = self._clock() - MEMORY
        while self._left and next(iter(self._left.values())).at < horizon:
            self._left.popitem(last=False)
            self._services.clear()
