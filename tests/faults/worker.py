"""A node of the fault suite: python worker.py URL NODE_ID LOG [key=value …]. Prints ``ready`` once it has joined.

Every execution appends a line to LOG before the handler does anything, so that what ran, and how often, is
known whatever happens to this process.
"""

import asyncio
import os
import signal
import sys
import time
from typing import Any

from messages import Block, Done, Order, Raise, Work

from catga import Mediator, add_cluster
from catga.errors import OverloadedError


def settings(arguments: list[str]) -> dict[str, Any]:
    pairs = (argument.split("=", 1) for argument in arguments)
    return {key: _value(value) for key, value in pairs}


def _value(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


async def main(url: str, node_id: str, log_path: str, *arguments: str) -> None:
    if "clock_offset" in (options := settings(list(arguments))):
        offset, real = int(options.pop("clock_offset")), time.time_ns
        time.time_ns = lambda: real() + offset * 1_000_000_000
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    app = Mediator()

    @app.handler
    async def work(request: Work) -> Done:
        os.write(log, b"%d\n" % request.id)
        await asyncio.sleep(request.seconds)
        return Done(request.id, node_id)

    @app.handler
    async def order(request: Order) -> Done:
        os.write(log, b"%d\n" % request.id)
        await asyncio.sleep(request.seconds)
        return Done(request.id, node_id)

    @app.handler
    def block(request: Block) -> None:
        time.sleep(request.seconds)

    @app.handler
    def refuse(request: Raise) -> None:
        os.write(log, b"%d\n" % request.id)
        raise OverloadedError("by the handler")

    cluster = add_cluster(app, url, node_id=node_id, **options)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with cluster:
        print("ready", flush=True)
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
