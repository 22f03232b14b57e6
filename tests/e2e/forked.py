"""A program that makes its node, then forks twice; each child joins and prints its id and how many it sees.

Usage: forked.py URL [NODE_ID]
"""

import asyncio
import os
import sys

from catga import Mediator, add_cluster
from catga.testing.waiting import eventually

keys = [b"0123456789abcdef"]
cluster = add_cluster(Mediator(), sys.argv[1], node_id=(sys.argv[2:] or [None])[0], prefix="forked", signing_keys=keys)


async def child() -> None:
    async with cluster:
        await eventually(lambda: len([each for each in cluster.get_nodes() if each.is_online]) == 2, 30)
        os.write(1, f"{cluster.node_id}\n".encode())
        await asyncio.sleep(1.0)


children = []
for _ in range(2):
    if (pid := os.fork()) == 0:
        try:
            asyncio.run(child())
        finally:
            os._exit(0)
    children.append(pid)
for pid in children:
    os.waitpid(pid, 0)
