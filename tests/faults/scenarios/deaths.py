"""SIGKILL of one node, or of many at once: who notices, when, and what becomes of the requests."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import nats
from harness import FaultCluster
from messages import Slow, Work
from redis.asyncio import Redis

from scenarios.base import (
    BOTH,
    SCENARIOS,
    Run,
    Scenario,
    scenario,
    seconds_until,
    suspected_after,
    under_load,
)

KEYS = (b"a key that all the nodes share",)


async def _all_saw(run: Run, cluster: FaultCluster, began: float, dead: tuple[str, ...], limit: float) -> None:
    """Everybody who lives, the nodes included, sees exactly these leave."""
    expected = {(watcher, node_id) for watcher in cluster.ids() for node_id in dead}

    async def all_have_seen() -> bool:
        return expected <= {(d.watcher, d.node_id) for d in cluster.departures(began)}

    await seconds_until(all_have_seen, began, max(30.0, limit * run.patience))
    seen = cluster.departures(began)
    missed = expected - {(d.watcher, d.node_id) for d in seen}
    run.must(not missed, f"all saw them leave, but {sorted(missed)[:4]} ({len(missed)} in all)")
    alive = [f"{d.watcher} of {d.node_id} ({d.reason})" for d in seen if d.node_id not in dead]
    run.must(not alive, f"nobody else left, but {alive[:4]} ({len(alive)} in all)")
    run.detection = max((d.at for d in seen if d.node_id in dead), default=None)
    run.within(run.detection, limit, "all watchers saw it leave")


async def _kill(run: Run, cluster: FaultCluster, dead: tuple[str, ...]) -> float:
    """Kill them under load: no request fails. Returns when they died."""

    async def kill() -> None:
        await cluster.kill(*dead)

    report, began = await under_load(run, cluster, Work, kill, 5.0)
    run.must(not report.failed, f"no request failed, {len(report.failed)} did")
    return began


async def kill_some(run: Run, of: int, number: int, limit: float, keys: tuple[bytes, ...] = ()) -> None:
    node_ids = tuple(f"n{each}" for each in range(1, of + 1))
    async with FaultCluster(run.server, signing_keys=keys) as cluster:
        await cluster.start(node_ids)
        await cluster.settled()
        dead = node_ids[1 : 1 + number]
        began = await _kill(run, cluster, dead)
        times = [suspected_after(cluster, began, node_id) for node_id in dead]
        run.recovery = None if None in times else max(t for t in times if t is not None)
        run.within(run.recovery, 0.1, "unroutable")
        await _all_saw(run, cluster, began, dead, limit)


def _register() -> None:
    cases = [
        ("one_of_three", 3, 1, 3.0, "one of three nodes"),
        ("one_of_ten", 10, 1, 5.0, "one of ten nodes"),
        ("two_of_five", 5, 2, 20.0, "two of five nodes at once"),
        ("half_of_ten", 10, 5, 20.0, "five of ten nodes at once"),
    ]
    for name, of, number, limit, words in cases:
        for mark, keys, signed in (("", (), ""), ("_signed", KEYS, ", signing keys")):
            play: Any = partial(kill_some, of=of, number=number, limit=limit, keys=keys)
            long = BOTH if name != "one_of_three" else ()
            SCENARIOS[f"kill_{name}{mark}"] = Scenario(f"SIGKILL of {words}{signed}", play, long=long)


_register()


@scenario(long=BOTH)
async def sigkill_thousand(run: Run) -> None:
    """SIGKILL of a node with 1,000 idempotent requests of 5 s in flight"""
    async with FaultCluster(run.server, max_concurrency=4000, max_queue=4000) as cluster:
        await cluster.start()
        await cluster.settled()
        sending = asyncio.create_task(cluster.burst(Slow, 3000))

        async def full() -> bool:
            return sum(1 for each in cluster.log() if each.node_id == "n2") >= 950

        taken = await seconds_until(full, time.monotonic(), 5.0)
        run.must(taken is not None, "the node took its share before it answered")
        await cluster.kill("n2")
        report = await sending
        run.count(cluster, report)
        run.must(not report.failed, f"no request failed, {len(report.failed)} did")
        run.recovery = max(a.seconds for a in report.attempts)
        run.notes.append("recovered: the slowest request")


@asynccontextmanager
async def listening_to_all(run: Run) -> AsyncGenerator[None]:
    """Somebody hears everything that is published, as a monitoring client does."""
    if run.is_nats:
        async with await nats.connect(run.server.url) as client:
            await client.subscribe("catga.>", cb=_ignore)
            await client.flush()
            yield
    else:
        async with Redis.from_url(run.server.url) as client, client.pubsub() as ear:
            await ear.psubscribe("*")
            reading = asyncio.create_task(_read(ear))
            yield
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


async def _ignore(message: Any) -> None:
    pass


async def _read(ear: Any) -> None:
    async for _ in ear.listen():
        pass


@scenario(long=BOTH)
async def sigkill_beside_wildcard(run: Run) -> None:
    """SIGKILL of a node while somebody listens to all subjects"""
    lease = {"ttl": 300, "heartbeat_interval": 60}  # long, so that it is not what finds the death
    async with listening_to_all(run), FaultCluster(run.server, **lease) as cluster:
        await cluster.start()
        await cluster.settled()
        began = await _kill(run, cluster, ("n2",))
        await _all_saw(run, cluster, began, ("n2",), 15.0)
