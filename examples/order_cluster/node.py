"""A node of the service: its handlers, and its life until SIGTERM."""

import asyncio
import logging
import os
import signal

from examples.order_cluster.messages import PlaceOrder, Receipt

from catga import DistributedMediator, Mediator
from catga.mediator.behaviors import Idempotency, KeyValueStore

logger = logging.getLogger("orders")


def handlers(receipts: KeyValueStore) -> Mediator:
    """Takes orders. `receipts` is shared by the nodes: an order that comes a second time, perhaps to another
    node because the first one died, is answered from there and not booked again. Where the first one died in
    the middle, the second waits for the lease of its claim to end."""
    app = Mediator()
    node_id = os.environ["CATGA_NODE_ID"]
    app.behavior(Idempotency(receipts, key=_once, lease=2.0, wait=8.0))

    @app.handler
    async def place(order: PlaceOrder) -> Receipt:
        await asyncio.sleep(0.02)  # where a real service would book it
        return Receipt(order.order_id, node_id)

    return app


def _once(order: PlaceOrder) -> str:
    return f"{order.customer}/{order.order_id}"


async def serve(node: DistributedMediator) -> None:
    """Be a member until SIGTERM or SIGINT, then finish what was accepted and leave.

    Raises `ClusterError` if the broker cannot be reached.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with node:
        logger.info("%s has joined", node.node_id)
        await stop.wait()
        logger.info("%s is draining", node.node_id)
    logger.info("%s has left", node.node_id)
