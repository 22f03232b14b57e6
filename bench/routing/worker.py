"""A worker that handles one request at a time: ``worker.py SYSTEM URL ID SECONDS``. Prints a line when it is ready."""

import asyncio
import sys

import nats
from messages import SafeWork, Work

from catga import Mediator, add_cluster


async def queue_group(url: str, seconds: float) -> None:
    client = await nats.connect(url)

    async def work(message: nats.aio.msg.Msg) -> None:  # nats-py calls it for one message after the other
        await asyncio.sleep(seconds)
        await message.respond(b"1")

    await client.subscribe("bench.work", queue="workers", cb=work)
    await client.flush()
    await run_until_killed()


async def catga(url: str, node_id: str, seconds: float) -> None:
    app = Mediator()

    @app.handler
    async def work(request: Work) -> int:
        await asyncio.sleep(seconds)
        return 1

    @app.handler
    async def safe_work(request: SafeWork) -> int:
        await asyncio.sleep(seconds)
        return 1

    async with add_cluster(app, url, node_id=node_id, max_concurrency=1, max_queue=100_000):
        await run_until_killed()


async def run_until_killed() -> None:
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    _, system, url, node_id, seconds = sys.argv
    if system == "queue group":
        asyncio.run(queue_group(url, float(seconds)))
    else:
        asyncio.run(catga(url, node_id, float(seconds)))
