"""Many nodes in one process, for the scale benchmark: scale_host.py URL FIRST COUNT

Prints ``ready`` once all have joined. Then, for each line of JSON on standard input (``node``, ``present``,
``timeout``), waits until every node here sees that node come or go, and prints when each of them did
(CLOCK_MONOTONIC, which all processes share; null for those that did not).
"""

import asyncio
import gc
import json
import sys
import time
from dataclasses import dataclass

import uvloop

from catga import Mediator, Request, add_cluster

POLL = 0.01
AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Work(Request[None]):
    """So that the records are not empty."""


def make(url, name):
    app = Mediator()

    @app.handler
    async def work(request: Work) -> None:
        return None

    return add_cluster(app, url, node_id=name, prefix="scale", connect_timeout=60.0, request_timeout=5.0)


async def observe(nodes, order):
    views = {node.node_id: node._node.membership.view for node in nodes}
    seen = dict.fromkeys(views)
    waiting = set(views)
    deadline = time.monotonic() + order["timeout"]
    print("watching", flush=True)
    while waiting and time.monotonic() < deadline:
        for name in list(waiting):
            if (views[name].get(order["node"]) is not None) is order["present"]:
                seen[name] = time.monotonic()
                waiting.discard(name)
        await asyncio.sleep(POLL)
    return list(seen.values())


async def main(url, first, count):
    gc.disable()  # it would look through the views of 150 nodes again and again: a process has one, outside of here
    nodes = [make(url, f"n{number:04}") for number in range(first, first + count)]
    gate = asyncio.Semaphore(AT_ONCE)

    async def join(node):
        async with gate:
            await node.start()

    await asyncio.gather(*(join(node) for node in nodes))
    gc.collect()
    gc.freeze()
    gc.enable()
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        order = json.loads(line)
        if "census" in order:
            print(json.dumps([len(node._node.membership.view.nodes()) for node in nodes]), flush=True)
        else:
            print(json.dumps(await observe(nodes, order)), flush=True)


uvloop.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
