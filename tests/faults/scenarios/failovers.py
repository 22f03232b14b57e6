"""The Redis primary is replaced by its replica, as sentinels do it."""

import asyncio
from collections.abc import Awaitable, Callable

from harness import FaultCluster
from messages import Order, Work
from topologies import Failover, sentinels

from scenarios.base import Run, scenario, seconds_until, under_load, whole_again

HOW = {"on": ("redis",), "long": ("redis",), "bed": lambda _: sentinels()}


def _either(number: int) -> Order | Work:
    return Order(number) if number % 2 else Work(number)


async def _fail_over(run: Run, break_it: Callable[[Failover], Awaitable[None]], seconds: float) -> None:
    bed: Failover = run.server
    async with FaultCluster(bed) as cluster:
        await cluster.start()
        await cluster.settled()

        async def fail() -> None:
            breaking = asyncio.create_task(break_it(bed))
            await cluster.until(lambda: bed.promoted > 0)
            await whole_again(run, cluster, bed.promoted, 5.0)
            await breaking

        report, began = await under_load(run, cluster, _either, fail, seconds)
        idempotent = [a for a in report.failed if a.id % 2 == 0]
        run.must(not idempotent, f"no idempotent request failed, {len(idempotent)} did")
        twice = sum(1 for number, count in cluster.executions().items() if number % 2 and count > 1)
        run.must(twice == 0, f"{twice} requests that are not idempotent ran twice")
        run.notes.append(
            f"promoted after {bed.promoted - began:.1f} s, {len(cluster.departures(began))} departures seen"
        )
        at_the_end = await seconds_until(cluster.is_whole, asyncio.get_running_loop().time(), 2.0 * run.patience)
        run.must(at_the_end is not None, "the views are still whole at the end")


@scenario(**HOW)
async def sentinel_kill(run: Run) -> None:
    """SIGKILL of the primary, the sentinels make the replica primary"""

    async def kill(bed: Failover) -> None:
        await asyncio.to_thread(bed.first.kill)

    await _fail_over(run, kill, 12.0)


@scenario(**HOW)
async def sentinel_stop(run: Run) -> None:
    """SIGSTOP of the primary for 7 s: for a while there are two"""

    async def stop(bed: Failover) -> None:
        bed.first.freeze()
        await asyncio.sleep(7.0)
        bed.first.thaw()

    await _fail_over(run, stop, 20.0)


@scenario(**HOW)
async def sentinel_command(run: Run) -> None:
    """SENTINEL FAILOVER"""
    await _fail_over(run, Failover.command, 10.0)
