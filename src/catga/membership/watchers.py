"""Any number of watchers of one view, each with its own pace and a bounded memory."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

import msgspec

from catga.node import NodeChangeEvent, NodeChangeType, NodeInfo

JOINED, UPDATED, LEFT = NodeChangeType.JOINED, NodeChangeType.UPDATED, NodeChangeType.LEFT


class Watcher(AsyncIterator[NodeChangeEvent]):
    """First the members as they are (each ``joined``), then changes.

    A watcher that reads slowly sees changes of one life of a node coalesced, never lost: replaying its events always
    gives the view. At most two events a node wait: the end of one life, and the next. Ends when the cluster is left;
    `aclose` ends it earlier.
    """

    def __init__(self, nodes: Sequence[NodeInfo], version: int, forget: Callable[["Watcher"], None]) -> None:
        self._pending = {(n.node_id, False): NodeChangeEvent(JOINED, n, version) for n in nodes}  # whether it left
        self._told: set[str] = set()
        self._forget = forget
        self._wake: asyncio.Future[None] | None = None
        self._closed = False

    def push(self, event: NodeChangeEvent) -> None:
        """Take in a change, merged with what is still unread of the same node."""
        node_id = event.node.node_id
        self._pending.pop((node_id, False), None)  # the newer goes to the end: versions stay in order
        end = self._pending.get((node_id, True))
        if event.type is not LEFT:
            if end is not None and end.node.incarnation == event.node.incarnation:  # it is back: it never left
                del self._pending[node_id, True]
                end = None
            is_known = node_id in self._told and end is None
            self._pending[node_id, False] = msgspec.structs.replace(event, type=UPDATED if is_known else JOINED)
        elif node_id in self._told and end is None:  # else nobody was told that it is there
            self._pending[node_id, True] = event
        self._notify()

    async def __anext__(self) -> NodeChangeEvent:
        while not self._pending:
            if self._closed:
                raise StopAsyncIteration
            self._wake = asyncio.get_running_loop().create_future()
            await self._wake
        event = self._pending.pop(next(iter(self._pending)))
        if event.type is LEFT:
            self._told.discard(event.node.node_id)
        else:
            self._told.add(event.node.node_id)
        return event

    def close(self) -> None:
        """No more changes come; what is unread can still be read."""
        self._closed = True
        self._notify()

    async def aclose(self) -> None:
        """Stop watching."""
        self._pending.clear()
        self.close()
        self._forget(self)

    async def __aenter__(self) -> "Watcher":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _notify(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)
