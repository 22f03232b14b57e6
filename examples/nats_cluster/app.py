"""The order service on NATS, of CATGA_URL, as CATGA_NODE_ID. The receipts are in JetStream.

A node: ``python -m examples.nats_cluster.app``; the gateway: ``uvicorn --factory examples.nats_cluster.app:gateway``.
"""

import asyncio
import logging
import os

import nats
from examples.order_cluster.gateway import web
from examples.order_cluster.node import handlers, serve
from examples.order_cluster.options import options
from starlette.applications import Starlette

from catga import DistributedMediator, Mediator, add_nats_cluster
from catga.integrations.nats_stores import NatsStore

URL = os.environ["CATGA_URL"]


def join(app: Mediator, service: str) -> DistributedMediator:
    # The nodes tell each other who they are; with "kv" that would be in JetStream too.
    return add_nats_cluster(app, URL, discovery="pubsub", **options(service))


async def node() -> None:
    client = await nats.connect(URL, max_reconnect_attempts=-1)  # pyright: ignore[reportUnknownMemberType]
    try:
        receipts = await NatsStore.open(client, "orders")
        await serve(join(handlers(receipts), "orders"))
    finally:
        await client.close()


def gateway() -> Starlette:
    return web(join(Mediator(), "gateway"))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(node())
