"""The broker dies, stops, or forgets; a link to it stalls."""

import asyncio
import time
from typing import Any

from harness import FaultCluster
from messages import Order, Work

from catga import Mediator, add_cluster
from catga.backends.nats.kv import bucket_name
from catga.testing.proxy import Proxy
from catga.testing.servers import NatsServer
from scenarios.base import BOTH, Run, no_membership_events, scenario, suspected_after, under_load
from scenarios.deaths import kill_some


async def _broker_outage(run: Run, down: float, load: float) -> None:
    async with FaultCluster(run.server) as cluster:
        await cluster.start()
        returned = 0.0

        async def outage() -> None:
            nonlocal returned
            await asyncio.to_thread(run.server.kill)
            await asyncio.sleep(down)
            await asyncio.to_thread(run.server.start)
            returned = time.monotonic()

        report, began = await under_load(run, cluster, Order, outage, load)
        patient = [a for a in report.failed if a.sent > began + down - 8.0]
        run.must(not patient, "calls whose deadline outlasts the outage succeed")
        run.must(all(a.seconds < 10.0 + 2.0 * run.patience for a in report.failed), "the others fail within theirs")
        run.must(run.twice == 0, "nothing ran twice")
        run.must(report.mean_attempts() <= 1.05, f"at most 1.05 attempts a request, {report.mean_attempts():.3f}")
        no_membership_events(run, cluster, began)
        after = [a.ended for a in report.attempts if a.error is None and a.ended > returned]
        run.recovery = min(after) - returned if after else None
        run.within(run.recovery, 2.0, "full service")


@scenario()
async def broker_restart_0_3s(run: Run) -> None:
    """Broker SIGKILL, back empty after 0.3 s"""
    await _broker_outage(run, 0.3, 5.0)
    run.must(run.lost == 0, "no request failed")


@scenario()
async def broker_restart_1_5s(run: Run) -> None:
    """Broker SIGKILL, back empty after 1.5 s"""
    await _broker_outage(run, 1.5, 6.0)


@scenario()
async def broker_restart_30s(run: Run) -> None:
    """Broker SIGKILL, back empty after 30 s"""
    await _broker_outage(run, 30.0 if run.patience == 1 else 12.0, 35.0 if run.patience == 1 else 16.0)


@scenario()
async def broker_sigstop(run: Run) -> None:
    """Broker SIGSTOP for 10 s"""
    async with FaultCluster(run.server) as cluster:
        await cluster.start()

        async def freeze() -> None:
            run.server.freeze()
            await asyncio.sleep(10.0)
            run.server.thaw()

        report, began = await under_load(run, cluster, Order, freeze, 14.0)
        thawed = began + 10.0
        run.must(not [a for a in report.failed if a.sent > began + 2.0], "calls that outlast the freeze succeed")
        run.must(run.twice == 0, "nothing ran twice")
        no_membership_events(run, cluster, began)
        after = [a.ended for a in report.attempts if a.error is None and a.ended > thawed]
        run.recovery = min(after) - thawed if after else None
        run.within(run.recovery, 2.0, "full service")


@scenario()
async def half_open_link(run: Run) -> None:
    """A node's link goes half-open for 3 s, then heals"""
    async with Proxy(run.server.url) as proxy, FaultCluster(run.server) as cluster:
        await cluster.start(("n1", "n3"))
        await cluster.add("n2", url=proxy.url)

        async def stall() -> None:
            proxy.half_open()
            await asyncio.sleep(3.0)
            proxy.heal()

        report, began = await under_load(run, cluster, Work, stall, 8.0)
        run.must(not report.failed, "no request failed")
        run.detection = suspected_after(cluster, began, "n2")
        run.within(run.detection, 2.0, "routed around")
        no_membership_events(run, cluster, began)
        back = min((a.ended for a in report.attempts if a.node_id == "n2" and a.sent > began + 3.0), default=None)
        run.must(back is not None, "it serves again")
        run.recovery = back and back - began - 3.0


@scenario(on=("redis",))
async def store_wiped(run: Run) -> None:
    """FLUSHALL"""
    async with FaultCluster(run.server, heartbeat_interval=1.0) as cluster:
        await cluster.start()
        import redis.asyncio

        async with redis.asyncio.from_url(run.server.url) as client:

            async def flush() -> None:
                await client.flushall()

            report, began = await under_load(run, cluster, Work, flush, 4.0)
            run.must(not report.failed, "no request failed")
            no_membership_events(run, cluster, began)
            records = await client.mget([f"catga:nodes:{node_id}" for node_id in ("n1", "n2", "n3")])
            run.must(all(records), "the records are back within one heartbeat")


@scenario(on=("nats",), bed=lambda _: NatsServer(jetstream=True))
async def bucket_deleted(run: Run) -> None:
    """KV bucket deleted"""
    async with FaultCluster(run.server, heartbeat_interval=1, discovery="kv") as cluster:
        await cluster.start()
        import nats

        client = await nats.connect(run.server.url)
        jetstream = client.jetstream()

        async def delete() -> None:
            await jetstream.delete_key_value(bucket_name("catga"))

        report, began = await under_load(run, cluster, Work, delete, 4.0)
        run.must(not report.failed, "no request failed")
        no_membership_events(run, cluster, began)
        records = await (await jetstream.key_value(bucket_name("catga"))).keys()
        run.must({"n1", "n2", "n3"} <= set(records), "the records are back within one heartbeat")
        await client.close()


@scenario(on=("redis",), long=("redis",))
async def unrelated_keys(run: Run) -> None:
    """100,000 unrelated keys with TTLs; SIGKILL of a node"""
    import redis.asyncio

    async with redis.asyncio.from_url(run.server.url) as client:
        for start in range(0, 100_000, 10_000):
            async with client.pipeline(transaction=False) as pipeline:
                for number in range(start, start + 10_000):
                    pipeline.set(f"other:{number}", b"x", ex=600)
                await pipeline.execute()
        await kill_some(run, of=3, number=1, limit=3.0)
        await client.flushall()


@scenario(long=BOTH)
async def reconnect_at_once(run: Run) -> None:
    """Broker SIGKILL with 200 clients, back after 0.3 s"""
    options: dict[str, Any] = {"prefix": "herd", "ttl": 60, "heartbeat_interval": 15}
    herd = [add_cluster(Mediator(), run.server.url, node_id=f"client-{n}", **options) for n in range(200)]
    await asyncio.gather(*(client.start() for client in herd))
    try:
        await asyncio.to_thread(run.server.kill)
        await asyncio.sleep(0.3)
        await asyncio.to_thread(run.server.start)
        returned = time.monotonic()
        back: dict[str, float] = {}
        while len(back) < len(herd) and time.monotonic() < returned + 5.0 * run.patience:
            for client in herd:
                if client.health == "healthy":
                    back.setdefault(client.node_id, time.monotonic() - returned)
            await asyncio.sleep(0.01)
        run.must(len(back) == len(herd), f"all are ready, {len(back)} are")
        run.recovery = max(back.values(), default=None)
        run.within(run.recovery, 5.0, "all ready")
        run.notes.append(f"spread over {max(back.values()) - min(back.values()):.2f} s")
    finally:
        await asyncio.gather(*(client.stop() for client in herd))
