"""The example without docker: python -m examples.nats_cluster.run_local, from the project's folder."""

import asyncio
import sys

from examples.order_cluster.local import tell

from catga import Mediator, add_nats_cluster
from catga.testing.servers import NatsServer


async def main() -> int:
    with NatsServer(jetstream=True) as server:
        observer = add_nats_cluster(Mediator(), server.url, node_id="observer", observe_only=True)
        return await tell("examples.nats_cluster.app", server.url, observer)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
