"""A node of the fault suite: python worker.py URL NODE_ID LOG OPTIONS. Prints ``ready`` once it has joined.

OPTIONS is JSON: those of `add_cluster`, and ``clock_offset`` in seconds. Every execution appends a line to LOG
(id, node, ``time.monotonic()``) before the handler does anything, so that what ran, when and how often, is known
whatever happens to this process. When this node sees another leave, it appends a line to LOG.left (time, this node,
the other, why).
"""

import asyncio
import json
import os
import signal
import sys
import time
from typing import Any

from messages import (
    Block,
    Crunch,
    CrunchPlain,
    Done,
    Long,
    Members,
    Order,
    Prompt,
    PromptPlain,
    Raise,
    Slow,
    Toil,
    Work,
)

from catga import DistributedMediator, Mediator, NodeChangeType, add_cluster
from catga.errors import OverloadedError
from catga.node import NodeState


class Lines:
    """A file that several processes append lines to."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def add(self, *words: object) -> None:
        os.write(self._file, (" ".join(map(str, words)) + "\n").encode())


def keep_cpu(seconds: float) -> None:
    """Keep the CPU, and the event loop, for so long."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def handlers(node_id: str, log: Lines) -> Mediator:
    """What nodes do with each message: `async` and plain handlers, some wait, some keep the CPU."""
    app = Mediator()

    def ran(request: Any) -> Done:
        log.add(request.id, node_id, time.monotonic())
        return Done(request.id, node_id)

    async def wait(request: Any) -> Done:
        done = ran(request)
        await asyncio.sleep(request.seconds)
        return done

    async def crunch(request: Any) -> Done:
        return crunch_plain(request)

    def crunch_plain(request: Any) -> Done:
        done = ran(request)
        keep_cpu(request.seconds)
        return done

    async def prompt(request: Any) -> Done:
        return ran(request)

    def refuse(request: Any) -> None:
        ran(request)
        raise OverloadedError("by the handler")

    def block(request: Any) -> None:
        time.sleep(request.seconds)

    for kind in (Work, Order, Long, Slow):
        app.handles(kind)(wait)
    others = {Crunch: crunch, Toil: crunch, CrunchPlain: crunch_plain, Prompt: prompt, PromptPlain: ran}
    for kind, handler in others.items():
        app.handles(kind)(handler)
    app.handles(Raise)(refuse)
    app.handles(Block)(block)
    return app


async def note_departures(cluster: DistributedMediator, log: Lines) -> None:
    async for event in cluster.watch():
        if event.type is NodeChangeType.LEFT:
            log.add(time.monotonic(), cluster.node_id, event.node.node_id, event.reason.value)


def shift_clock(seconds: int) -> None:
    real = time.time_ns
    time.time_ns = lambda: real() + seconds * 1_000_000_000


async def main(url: str, node_id: str, log: str, given: str) -> None:
    options: dict[str, Any] = json.loads(given)
    shift_clock(options.pop("clock_offset", 0))
    options["signing_keys"] = [key.encode() for key in options.get("signing_keys", ())]
    app = handlers(node_id, Lines(log))
    cluster = add_cluster(app, url, node_id=node_id, **options)

    @app.handler
    def members(request: Members) -> list[str]:
        return [node.node_id for node in cluster.get_nodes() if node.state is NodeState.ALIVE]

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with cluster:
        noting = asyncio.create_task(note_departures(cluster, Lines(f"{log}.left")))
        print("ready", flush=True)
        await stop.wait()
    await noting


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
