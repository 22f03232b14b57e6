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
    nodes = [add_cluster(app, url, node_id=f"node-{n}", **options) for n, app in enumerate(apps, 1)]
    async with AsyncExitStack() as stack:
        for node in nodes:
            await stack.enter_async_context(node)
        await eventually(lambda: all(len(node.get_nodes()) == len(nodes) for node in nodes))
        yield nodes
