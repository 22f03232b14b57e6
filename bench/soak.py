"""python bench/soak.py --minutes 10 --broker nats: steady load while nodes and the broker are restarted.

Everything but the broker runs in this process, so that what a stopped node leaves behind shows up here. Prints
a line every ten seconds and a verdict; the exit status is 1 if memory grew, a task was left, or a stopped node
is still referenced.
"""

import argparse
import asyncio
import gc
import itertools
import resource
import statistics
import sys
import time
from collections import Counter
from pathlib import Path

import msgspec

from catga import DistributedMediator, Event, Mediator, Request, add_cluster, message
from catga.cluster.node import Node
from catga.testing.servers import NatsServer, RedisServer, Server

SAMPLE = 10.0
"""Seconds between two lines."""
TTL = 12.0
WARM_UP = 0.34
"""The share of the time in which caches and the dedup windows fill."""
GROWTH = 0.05
SLACK = 3.0
"""MB."""


@message(idempotent=True, timeout=10.0, name="soak.Work")
class Work(msgspec.Struct, Request[int], frozen=True):
    number: int
    text: str = "x" * 100


@message(name="soak.News")
class News(msgspec.Struct, Event, frozen=True):
    number: int


class Sample(msgspec.Struct, frozen=True):
    """What is held at one moment."""

    seconds: float
    rss: float
    objects: int
    tasks: int
    nodes: int
    pending: int
    destinations: int
    inflight: int
    tombstones: int
    members: int

    def line(self) -> str:
        return (
            f"{self.seconds:6.0f} s  rss {self.rss:6.1f} MB  objects {self.objects:7}  tasks {self.tasks:4}  "
            f"nodes {self.nodes:2}  pending {self.pending:4}  destinations {self.destinations:3}  "
            f"inflight {self.inflight:3}  tombstones {self.tombstones:4}  members {self.members:2}"
        )


class Soak:
    """One run."""

    def __init__(self, server: Server, rate: float) -> None:
        self.server = server
        self.rate = rate
        self.ends: Counter[str] = Counter()
        self.restarts: Counter[str] = Counter()
        self.samples: list[Sample] = []
        self._ids = itertools.count(1)
        self._started = time.monotonic()
        self._app = Mediator()
        self._app.handles(News)(self._on_news)
        self._app.handles(Work)(self._work)

    async def _work(self, request: Work) -> int:
        await asyncio.sleep(0.002)
        return request.number

    async def _on_news(self, event: News) -> None:
        self.ends["news"] += 1

    async def node(self, node_id: str, app: Mediator) -> DistributedMediator:
        node = add_cluster(
            app, self.server.url, node_id=node_id, ttl=TTL, heartbeat_interval=3, probe_interval=0.5, drain_timeout=2
        )
        await node.start()
        return node

    async def run(self, seconds: float) -> None:
        self.caller = await self.node("caller", Mediator())
        self._workers = [await self.node(f"worker-{n}", self._app) for n in range(3)]
        watcher = asyncio.create_task(self._watch())
        loops = [asyncio.create_task(step) for step in (self._load(), self._restart_nodes(), self._restart_broker())]
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            await asyncio.sleep(min(SAMPLE, max(end - time.monotonic(), 0.1)))
            self._sample()
            for loop in loops:
                if loop.done():
                    loop.result()
        for loop in loops[1:]:
            loop.cancel()
        await asyncio.gather(*loops[1:], return_exceptions=True)
        loops[0].cancel()
        await asyncio.gather(loops[0], return_exceptions=True)
        for node in (*self._workers, self.caller):
            await node.stop()
        await asyncio.gather(watcher, return_exceptions=True)

    async def _watch(self) -> None:
        async for event in self.caller.watch():
            self.restarts[event.type.value] += 1

    async def _load(self) -> None:
        sending: set[asyncio.Task[None]] = set()
        started, sent = time.monotonic(), 0
        try:
            while True:
                while sent < (time.monotonic() - started) * self.rate:
                    sent += 1
                    task = asyncio.create_task(self._one(sent))
                    sending.add(task)
                    task.add_done_callback(sending.discard)
                await asyncio.sleep(0.01)
        finally:
            await asyncio.gather(*sending, return_exceptions=True)

    async def _one(self, number: int) -> None:
        if number % 20 == 0:
            await self.caller.broadcast(News(number))
            return
        if number % 20 == 1:
            sending = asyncio.create_task(self.caller.send(Work(number)))
            await asyncio.sleep(0.001)
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            self.ends["cancelled"] += 1
            return
        result = await self.caller.send(Work(number))
        self.ends["ok" if result.is_success else result.error.code] += 1

    async def _restart_nodes(self) -> None:
        """Every other time under a new id: what is kept by id must go, too."""
        for turn in itertools.count():
            await asyncio.sleep(3.0)
            index = turn % 3
            node_id = f"worker-{index}" if turn % 2 else f"worker-{next(self._ids)}-new"
            await self._workers[index].stop()
            while True:
                try:
                    self._workers[index] = await self.node(node_id, self._app)
                    break
                except Exception as error:
                    self.restarts[type(error).__name__] += 1
                    await asyncio.sleep(0.5)
            self.restarts["node"] += 1

    async def _restart_broker(self) -> None:
        while True:
            await asyncio.sleep(25.0)
            await asyncio.to_thread(self.server.kill)
            await asyncio.sleep(1.0)
            await asyncio.to_thread(self.server.restart)
            self.restarts["broker"] += 1

    def _sample(self) -> None:
        gc.collect()
        objects = gc.get_objects()
        node = self.caller._node
        assert node is not None
        client, view = node.peer.client, node.membership.view
        self.samples.append(
            Sample(
                seconds=time.monotonic() - self._started,
                rss=resident(),
                objects=len(objects),
                tasks=len(asyncio.all_tasks()),
                nodes=sum(1 for found in objects if type(found) is Node),
                pending=client.pending,
                destinations=len(client.destinations.by_subject),
                inflight=node.peer.server.inflight,
                tombstones=len(view._tombstones),
                members=len(view.nodes()),
            )
        )
        print(self.samples[-1].line(), flush=True)


def resident() -> float:
    """MB of this process."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 1e6
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def verdict(samples: list[Sample]) -> list[str]:
    """What is not as it should be."""
    warm = samples[int(len(samples) * WARM_UP) :]
    half = len(warm) // 2
    problems: list[str] = []
    for name, slack in (
        ("rss", SLACK),
        ("objects", 5000.0),
        ("destinations", 4.0),
        ("tasks", 40.0),
        ("tombstones", 4.0),
    ):
        before = statistics.median(getattr(s, name) for s in warm[:half])
        after = statistics.median(getattr(s, name) for s in warm[half:])
        if after > before * (1 + GROWTH) + slack:
            problems.append(f"{name} grew from {before:g} to {after:g}")
    most = max(s.nodes for s in warm)
    if most > 6:
        problems.append(f"{most} nodes are referenced, 4 or 5 live")
    return problems


async def main(minutes: float, broker: str, rate: float) -> int:
    with (NatsServer if broker == "nats" else RedisServer)() as server:
        before = len(asyncio.all_tasks())
        soak = Soak(server, rate)
        await soak.run(minutes * 60)
        await asyncio.sleep(1.0)
        left = [task for task in asyncio.all_tasks() if not task.done()]
        problems = verdict(soak.samples)
        if len(left) > before:
            problems.append(f"{len(left) - before} tasks left: {[task.get_name() for task in left]}")
    print(f"requests: {dict(soak.ends)}\nrestarts and changes seen: {dict(soak.restarts)}")
    print("\n".join(f"PROBLEM: {problem}" for problem in problems) or "flat: no growth, no task left")
    return 1 if problems else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--broker", choices=["nats", "redis"], default="nats")
    parser.add_argument("--rate", type=float, default=200.0, help="messages a second")
    given = parser.parse_args()
    sys.exit(asyncio.run(main(given.minutes, given.broker, given.rate)))
