"""The order service on Redis or Valkey, of CATGA_URL, as CATGA_NODE_ID.

A node: ``python -m examples.redis_cluster.app``; the gateway: ``uvicorn --factory examples.redis_cluster.app:gateway``.
"""

import asyncio
import logging
import os

from examples.order_cluster.gateway import web
from examples.order_cluster.node import handlers, serve
from examples.order_cluster.options import options
from redis.asyncio import Redis
from starlette.applications import Starlette

from catga import DistributedMediator, Mediator, add_redis_cluster
from catga.integrations.redis_stores import RedisStore

URL = os.environ["CATGA_URL"]


def join(app: Mediator, service: str) -> DistributedMediator:
    return add_redis_cluster(app, URL, **options(service))


async def node() -> None:
    async with Redis.from_url(URL) as client:  # pyright: ignore[reportUnknownMemberType]
        await serve(join(handlers(RedisStore(client, prefix="orders:")), "orders"))


def gateway() -> Starlette:
    return web(join(Mediator(), "gateway"))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(node())
