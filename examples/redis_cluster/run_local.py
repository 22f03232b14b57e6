"""The example without docker: python -m examples.redis_cluster.run_local, from the project's folder."""

import asyncio
import sys

from examples.order_cluster.local import tell

from catga import Mediator, add_redis_cluster
from catga.testing.servers import RedisServer


async def main() -> int:
    with RedisServer() as server:
        observer = add_redis_cluster(Mediator(), server.url, node_id="observer", observe_only=True)
        return await tell("examples.redis_cluster.app", server.url, observer)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
