"""Handlers that keep the CPU: a busy node is not dead."""

import asyncio
from collections.abc import Callable
from typing import Any

from harness import FaultCluster, Report
from messages import Crunch, CrunchPlain

from scenarios.base import Run, scenario, under_load

CALLS = 800


def _all_ran_about_once(run: Run, cluster: FaultCluster, report: Report) -> None:
    share = sum(cluster.executions().values()) / len(report.attempts)
    run.notes.append(f"{share:.2f} executions a request, the last took {max(a.seconds for a in report.attempts):.1f} s")
    run.must(not report.failed, f"no request failed, {len(report.failed)} did")
    run.must(share <= 1.15, f"at most 1.15 executions a request, {share:.2f}")


async def _at_once(run: Run, make: Callable[[int], Any]) -> None:
    async with FaultCluster(run.server, callers=1) as cluster:
        await cluster.start(("n1", "n2"))
        report = await cluster.burst(make, CALLS)
        run.count(cluster, report)
        _all_ran_about_once(run, cluster, report)


async def _after_an_outage(run: Run, make: Callable[[int], Any]) -> None:
    async with FaultCluster(run.server, callers=1) as cluster:
        await cluster.start(("n1", "n2"))

        async def outage() -> None:
            await asyncio.to_thread(run.server.kill)
            await asyncio.sleep(8.0)
            await asyncio.to_thread(run.server.start)

        report, _ = await under_load(run, cluster, make, outage, 12.0, rate=60.0)
        _all_ran_about_once(run, cluster, report)


@scenario()
async def busy_idempotent_async(run: Run) -> None:
    """800 idempotent requests of 4 ms CPU at once, two nodes, `async` handlers"""
    await _at_once(run, Crunch)


@scenario()
async def busy_idempotent_def(run: Run) -> None:
    """800 idempotent requests of 4 ms CPU at once, two nodes, plain handlers"""
    await _at_once(run, CrunchPlain)


@scenario(long=("nats", "redis"))
async def busy_after_outage_async(run: Run) -> None:
    """Broker away for 8 s, 60 idempotent requests/s of 4 ms CPU, two nodes, `async` handlers"""
    await _after_an_outage(run, Crunch)


@scenario(long=("nats", "redis"))
async def busy_after_outage_def(run: Run) -> None:
    """Broker away for 8 s, 60 idempotent requests/s of 4 ms CPU, two nodes, plain handlers"""
    await _after_an_outage(run, CrunchPlain)
