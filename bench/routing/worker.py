"""A worker that handles one request at a time: ``worker.py SYSTEM URL ID SECONDS [FAULT]``.

Prints a line when it is ready.
"""

import asyncio
import logging
import sys

import nats
from messages import SafeWork, Work

from catga import Mediator, add_cluster
from catga.mediator.behaviors import CircuitBreaker, RateLimit

SLOW_TO_FAIL = 0.3
BUSY = 0.5
RATE_LIMIT = 10.0


async def queue_group(url: str, seconds: float) -> None:
    client = await nats.connect(url)

    async def work(message: nats.aio.msg.Msg) -> None:  # nats-py calls it for one message after the other
        await asyncio.sleep(seconds)
        await message.respond(b"1")

    await client.subscribe("bench.work", queue="workers", cb=work)
    await client.flush()
    await run_until_killed()


async def catga(url: str, node_id: str, seconds: float, fault: str) -> None:
    logging.disable(logging.CRITICAL)
    app = Mediator()
    if fault == "circuit open":
        app.behavior(CircuitBreaker(failures=5, reset=3600.0))
    if fault == "rate limit":
        app.behavior(RateLimit(RATE_LIMIT))

    async def handle() -> int:
        if fault == "slow to fail":
            await asyncio.sleep(SLOW_TO_FAIL)
        if fault in ("fails at once", "slow to fail", "circuit open"):
            raise ConnectionError("my database is down")
        await asyncio.sleep(BUSY if fault == "full" else seconds)
        return 1

    @app.handler
    async def work(request: Work) -> int:
        return await handle()

    @app.handler
    async def safe_work(request: SafeWork) -> int:
        return await handle()

    limits = {"max_concurrency": 1, "max_queue": 0 if fault == "full" else 100_000}
    if fault == "slow to fail":
        limits["max_concurrency"] = 512
    metadata = {"zone": "near" if node_id in ("n0", "n1") else "far"}
    async with add_cluster(app, url, node_id=node_id, metadata=metadata, **limits):
        await run_until_killed()


async def run_until_killed() -> None:
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    _, system, url, node_id, seconds, *faults = sys.argv
    if system == "queue group":
        asyncio.run(queue_group(url, float(seconds)))
    else:
        asyncio.run(catga(url, node_id, float(seconds), *faults or [""]))
