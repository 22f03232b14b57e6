"""Any number of watchers of one view, each with its own pace and a bounded memory."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

import msgspec

from catga.node import NodeChangeEvent, NodeChangeType, NodeInfo

JOINED, UPDATED, LEFT = NodeChangeType.JOINED, NodeChangeType.UPDATED, NodeChangeType.LEFT


class Watcher(AsyncIterator[NodeChangeEvent]):
    """First the members as they are (each ``joined``), then changes.

    A watcher that reads slowly sees changes of one node coalesced, never lost: replaying its events always
    gives the view. At most one event a node waits. Ends when the cluster is left; `aclose` ends it earlier.
    """

    def __init__(self, nodes: Sequence[NodeInfo], version: int, forget: Callable[["Watcher"], None]) -> None:
        self._pending = {n.node_id: NodeChangeEvent(JOINED, n, version) for n in nodes}
        self._told: set[str] = set()
        self._forget = forget
        self._wake: asyncio.Future[None] | None = None
        self._closed = False

    def push(self, event: NodeChangeEvent) -> None:
        """Take in a change, merged with the one of the same node that is still unread."""
        node_id = event.node.node_id
        self._pending.pop(node_id, None)  # the newer goes to the end: versions stay in order
        merged = merge(event, told=node_id in self._told)
        if merged is not None:
            self._pending[node_id] = merged
        self._notify()

    async def __anext__(self) -> NodeChangeEvent:
        while not self._pending:
            if self._closed:
                raise StopAsyncIteration
            self._wake = asyncio.get_running_loop().create_future()
            await self._wake
        node_id = next(iter(self._pending))
        event = self._pending.pop(node_id)
        if event.type is LEFT:
            self._told.discard(node_id)
        else:
            self._told.add(node_id)
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


def merge(event: NodeChangeEvent, *, told: bool) -> NodeChangeEvent | None:
    """`event` as a reader must see it who missed what was before it.

    Args:
        told: whether the reader was told of the node, and not yet that it left.
    """
    if event.type is LEFT:
        return event if told else None
    return msgspec.structs.replace(event, type=UPDATED if told else JOINED)
