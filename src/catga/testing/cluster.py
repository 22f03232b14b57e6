"""A cluster within a test: nodes on an embedded bus that nobody else is on."""

import uuid
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from catga.cluster import DistributedMediator, add_cluster
from catga.mediator import Mediator
from catga.testing.waiting import eventually

__all__ = ["memory_cluster"]


@asynccontextmanager
async def memory_cluster(*apps: Mediator, **options: Any) -> AsyncGenerator[list[DistributedMediator]]:
    """Nodes ``node-1``, ``node-2`` …, one for each of `apps`, which all know each other.

    Args:
        options: of `add_cluster`, the same for all.
    """
    url = f"memory://test-{uuid.uuid4().hex}"
    nodes: list[DistributedMediator] = []
    async with AsyncExitStack() as stack:
        for n, app in enumerate(apps, 1):
            nodes.append(add_cluster(app, url, node_id=f"node-{n}", **options))
            stack.push_async_callback(nodes[-1].stop)  # also of one that did not start: it has the verbs of its app
        for node in nodes:
            await node.start()
        what = f"{len(nodes)} nodes know each other"
        await eventually(lambda: all(len(node.get_nodes()) == len(nodes) for node in nodes), what=what)
        yield nodes
