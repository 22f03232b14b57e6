"""A node without handlers, to be killed: python lone_node.py URL NODE_ID [key=value …]. Prints ``ready``."""

import asyncio
import sys

from catga import Mediator, add_cluster


async def main(url: str, node_id: str, *options: str) -> None:
    pairs = dict(option.split("=", 1) for option in options)
    async with add_cluster(Mediator(), url, node_id=node_id, **pairs):
        print("ready", flush=True)
        await asyncio.Event().wait()


asyncio.run(main(*sys.argv[1:]))
