"""A node with so many places, whose handler burns CPU for so long.

Usage: slow_line.py URL NODE_ID PREFIX MILLISECONDS PLACES
"""

import asyncio
import sys
import time
from dataclasses import dataclass

from catga import Mediator, Request, add_cluster, message


@message(name="slow_line.Burn")
@dataclass(frozen=True)
class Burn(Request[int]):
    """Not idempotent: it goes elsewhere only if it was surely not run."""

    number: int


async def main(url: str, node_id: str, prefix: str, milliseconds: str, places: str) -> None:
    app = Mediator()
    ran = 0

    @app.handler
    async def burn(request: Burn) -> int:
        nonlocal ran
        ran += 1
        end = time.perf_counter() + int(milliseconds) / 1000
        while time.perf_counter() < end:
            pass
        return request.number

    async with add_cluster(app, url, node_id=node_id, prefix=prefix, max_concurrency=int(places)):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        print(ran, flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
