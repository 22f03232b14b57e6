"""The application of the demo: four messages, their handlers, and a node that serves them.

One node process is ``python -m catga.cli.demo.app NODE_ID URL``.
"""

import asyncio
import sys
from dataclasses import dataclass

from catga import DistributedMediator, Event, Mediator, Request, add_cluster, message


@message(idempotent=True)
@dataclass(frozen=True, slots=True)
class Resize(Request[str]):
    """10 ms of work that is safe to run twice. Answered with the id of the node that did it."""

    image: str


@message(key="sku")
@dataclass(frozen=True, slots=True)
class Reserve(Request[str]):
    """Work that belongs to a key. Answered with the id of the node that did it."""

    sku: str


@dataclass(frozen=True, slots=True)
class PriceChanged(Event):
    """News, for one node of each service or for every node."""

    sku: str


@dataclass(frozen=True, slots=True)
class CountNews(Request[int]):
    """How often the node has heard `PriceChanged`."""


def node(node_id: str, url: str) -> DistributedMediator:
    """A node that handles all of these."""
    app = Mediator()
    heard: list[PriceChanged] = []

    @app.handler
    async def resize(request: Resize) -> str:
        await asyncio.sleep(0.01)
        return node_id

    @app.handler
    def reserve(request: Reserve) -> str:
        return node_id

    @app.handler
    def price_changed(event: PriceChanged) -> None:
        heard.append(event)

    @app.handler
    def count_news(request: CountNews) -> int:
        return len(heard)

    return add_cluster(app, url, node_id=node_id)


async def serve(node_id: str, url: str) -> None:
    """Be a node until standard input ends, then finish what was accepted and leave."""
    async with node(node_id, url):
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
