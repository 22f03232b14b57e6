"""An open-loop sender: ``sender.py SYSTEM URL RATE SECONDS TIMEOUT``.

Says "ready", waits for a line, sends at RATE a second whatever comes back, and prints one JSON list of
[time sent (monotonic, the machine's), seconds it took, whether it was answered].
"""

import asyncio
import json
import logging
import random
import sys
import time
from collections.abc import Awaitable, Callable

import nats
import nats.errors
from messages import SafeWork, Work

from catga import ConsistentHash, LoadBased, Mediator, Random, RoundRobin, add_cluster
from catga.cluster import OutlierEjection
from catga.routing import PreferZone, Weighted

Send = Callable[[int], Awaitable[bool]]

STRATEGIES = {
    "RoundRobin": RoundRobin,
    "LoadBased": LoadBased,
    "LoadBased, idempotent": LoadBased,
    "LoadBased(least)": lambda: LoadBased(least=True),
    "Random": Random,
    "Weighted": Weighted,
    "ConsistentHash": ConsistentHash,
    "ConsistentHash(max_load)": lambda: ConsistentHash(max_load=1.25),
    "PreferZone(LoadBased)": lambda: PreferZone("near", LoadBased()),
}
NEVER_OUT = ", nobody left out"
"""Ends the name of a system that leaves out no outliers."""


async def drive(send: Send, rate: float, seconds: float, warm: int = 6) -> None:
    for number in range(warm):
        await send(number)  # connections and code are warm
    loop = asyncio.get_running_loop()
    print("ready", flush=True)
    await loop.run_in_executor(None, sys.stdin.readline)
    samples: list[tuple[float, float, bool]] = []

    async def one(number: int) -> None:
        start = time.monotonic()
        answered = await send(number)
        samples.append((start, time.monotonic() - start, answered))

    tasks: list[asyncio.Task[None]] = []
    due = loop.time()
    end = due + seconds
    while due < end:
        await asyncio.sleep(max(due - loop.time(), 0))
        tasks.append(asyncio.create_task(one(len(tasks))))
        due += random.expovariate(rate)
    await asyncio.gather(*tasks)
    print(json.dumps(samples), flush=True)


async def main(system: str, url: str, rate: float, seconds: float, timeout: float) -> None:
    if system == "queue group":
        client = await nats.connect(url)

        async def request(number: int) -> bool:
            try:
                await client.request("bench.work", b"1", timeout=timeout)
            except nats.errors.Error:
                return False
            return True

        await drive(request, rate, seconds)
        await client.close()
        return
    logging.disable(logging.CRITICAL)
    message = SafeWork if "idempotent" in system else Work
    strategy = STRATEGIES[system.removesuffix(NEVER_OUT)]()
    outliers = OutlierEjection(failures=0 if system.endswith(NEVER_OUT) else 5)
    cluster = add_cluster(Mediator(), url, routing=strategy, request_timeout=timeout, outliers=outliers)
    async with cluster:

        async def send(number: int) -> bool:
            return (await cluster.send(message(number))).is_success

        await drive(send, rate, seconds)


if __name__ == "__main__":
    _, system, url, rate, seconds, timeout = sys.argv
    asyncio.run(main(system, url, float(rate), float(seconds), float(timeout)))
