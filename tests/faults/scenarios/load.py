"""Too much, too hostile, too impatient: nothing is broken but what comes in."""

import asyncio
import json
import resource

from harness import FaultCluster, Report
from messages import Order, Raise, Work

from catga.testing.servers import NatsServer, Server
from scenarios.base import Run, no_membership_events, nothing, scenario, under_load


@scenario()
async def overload(run: Run) -> None:
    """5 × overload"""
    seconds = 30.0 if run.patience == 1 else 5.0
    capacity = 3 * 4 / 0.05  # nodes × places / seconds a call
    async with FaultCluster(run.server, max_concurrency=4, max_queue=8) as cluster:
        await cluster.start()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

        report, _ = await under_load(run, cluster, lambda i: Order(i, 0.05), nothing, seconds, rate=5 * capacity)
        good = [a for a in report.attempts if a.error is None]
        goodput = len(good) / seconds
        run.notes.append(f"goodput {goodput / capacity:.2f} of capacity, refused in {_p99(report) * 1000:.0f} ms (p99)")
        run.must(
            goodput >= (0.8 if run.patience == 1 else 0.5) * capacity, f"goodput {goodput:.0f}/s of {capacity:.0f}/s"
        )
        run.must(set(report.errors) <= {"overloaded/no"}, f"refused as overloaded, {dict(report.errors)}")
        if run.patience == 1:  # beside other tests each hop takes as long as they let it
            run.within(_p99(report), 0.1, "refused at once")
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        run.must(grown < 100_000, f"memory is flat, grew by {grown} KiB")
        run.lost = 0  # refusing is what must happen


def _p99(report: Report) -> float:
    times = sorted(a.seconds for a in report.failed)
    return times[int(len(times) * 0.99)] if times else 0.0


@scenario()
async def garbage(run: Run) -> None:
    """10,000 hostile frames at a node and at the discovery channel"""
    async with FaultCluster(run.server) as cluster:
        await cluster.start()
        node = next(n for n in cluster.callers[0].get_nodes() if n.node_id == "n1")
        caller = cluster.callers[0].current_node

        async def attack() -> None:
            inboxes = [f"catga.inbox.{n.node_id}.{n.incarnation}" for n in (node, caller)]
            await _publish_raw(run.server, inboxes, [b"\xc1garbage", b"", b"\x97\x01", b"{}" * 500] * 1250)
            await _publish_raw(
                run.server, [_changes(run)], [b"{}", b"\xff", b"[]", json.dumps({"left": 1}).encode()] * 1250
            )

        report, began = await under_load(run, cluster, Work, attack, 5.0)
        run.must(not report.failed, "no request failed")
        counted = cluster.callers[0].counters.get("garbage", 0)
        run.must(counted >= 5000, f"all counted, {counted}")
        no_membership_events(run, cluster, began)


def _changes(run: Run) -> str:
    return "catga.nodes.x" if run.is_nats else "catga:changes"


async def _publish_raw(server: Server, subjects: list[str], payloads: list[bytes]) -> None:
    if isinstance(server, NatsServer):
        import nats

        client = await nats.connect(server.url)
        for payload in payloads:
            for subject in subjects:
                await client.publish(subject, payload)
        await client.flush()
        await client.close()
    else:
        import redis.asyncio

        async with redis.asyncio.from_url(server.url) as client, client.pipeline(transaction=False) as pipeline:
            for payload in payloads:
                for subject in subjects:
                    pipeline.publish(subject, payload)
            await pipeline.execute()


@scenario()
async def every_handler_fails(run: Run) -> None:
    """Every handler fails with a retryable error"""
    async with FaultCluster(run.server) as cluster:
        await cluster.start()

        report, _ = await under_load(run, cluster, Raise, nothing, 3.0)
        executions = sum(cluster.executions().values())
        run.must(
            executions <= 1.2 * len(report.attempts), f"{executions} executions of {len(report.attempts)} requests"
        )
        run.must(len(report.failed) == len(report.attempts), "all fail with the handler's answer")
        run.lost, run.notes = 0, [f"{executions / len(report.attempts):.2f} executions a request"]


@scenario()
async def callers_cancel(run: Run) -> None:
    """Callers cancel half of their requests after 1 ms"""
    async with FaultCluster(run.server) as cluster:
        await cluster.start()
        stop = asyncio.Event()

        async def cancel_many() -> None:
            number = 1_000_000_000
            while not stop.is_set():
                number += 1
                task = asyncio.create_task(_send(cluster, number))
                await asyncio.sleep(0.001)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

        cancelling = asyncio.create_task(cancel_many())

        report, _ = await under_load(run, cluster, Order, nothing, 4.0)
        stop.set()
        await cancelling
        run.must(not report.failed, "the rest is unaffected")
        for caller in cluster.callers:
            pending = caller.counters["pending_calls"]
            run.must(pending == 0, f"{pending} calls are still pending")


async def _send(cluster: FaultCluster, number: int) -> None:
    await cluster.callers[0].send(Order(number, 0.05))
