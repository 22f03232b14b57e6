"""A bus of several NATS servers is split, and heals: nobody died, and nobody stays out.

Two nodes are on each side, the callers on the near one, and somebody who only watches on the far one.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from harness import FaultCluster, Report
from messages import Long, Work
from topologies import Split, gateway, leaf, routes

from scenarios.base import SCENARIOS, Run, Scenario, nobody_left, scenario, serve_again, under_load, whole_again

FAR = ("n3", "n4")


def places(split: Split) -> dict[str, str]:
    """Where each node connects: n1 and n2 near, n3 and n4 far."""
    return {"n1": split.near[0], "n2": split.near[-1], "n3": split.far[0], "n4": split.far[-1]}


async def _split(
    run: Run, cluster: FaultCluster, seconds: float, beside: Callable[[], Awaitable[Any]] | None = None
) -> tuple[Report, float]:
    """Split for so long, under load, with something `beside` it. The views must be whole 5 s after the heal, the far
    nodes serve after 3 s. Returns the report and when the split began."""
    split, healed = run.server, 0.0
    await cluster.start(places(split), observers=split.far)
    await cluster.settled()

    async def part() -> None:
        nonlocal healed
        split.cut()
        await asyncio.sleep(seconds)
        split.heal()
        healed = time.monotonic()
        await whole_again(run, cluster, healed, 5.0)

    report, began = await under_load(run, cluster, Work, part, seconds + 8.0)
    serve_again(run, report, healed, FAR, 3.0)
    run.must(not report.failed, f"no request failed, as nodes were near; {len(report.failed)} did")
    return report, began


async def _short(run: Run, seconds: float) -> None:
    async with FaultCluster(run.server, url=run.server.near[0]) as cluster:
        _, began = await _split(run, cluster, seconds)
        nobody_left(run, cluster, began)


def _register() -> None:
    beds = {
        "leaf": (leaf, "The link to a leaf node is cut"),
        "gateway": (gateway, "The gateways between two servers are cut"),
        "routes": (routes, "The routes to one of three servers are cut"),
    }
    for name, (bed, words) in beds.items():
        for seconds in (1, 6):
            long = () if (name, seconds) == ("leaf", 1) else ("nats",)
            SCENARIOS[f"split_{name}_{seconds}s"] = Scenario(
                f"{words} for {seconds} s", partial(_short, seconds=seconds), ("nats",), long, lambda _, bed=bed: bed()
            )


_register()


@scenario(on=("nats",), long=("nats",), bed=lambda _: leaf())
async def split_long(run: Run) -> None:
    """The link to a leaf node is cut for 60 s, at a ttl of 10 s"""
    seconds = 60.0 if run.is_strict else 25.0
    async with FaultCluster(run.server, url=run.server.near[0], ttl=10, heartbeat_interval=3) as cluster:
        await _split(run, cluster, seconds)


@scenario(on=("nats",), long=("nats",), bed=lambda _: routes())
async def split_own_side_call(run: Run) -> None:
    """Requests of 10 s on either side, not idempotent, while the routes are cut for 2 s"""
    seconds = 10.0 if run.is_strict else 8.0
    async with FaultCluster(run.server, url=run.server.near[0]) as cluster:
        calls = list[asyncio.Task[Any]]()
        starting = asyncio.create_task(_call_on_either_side(cluster, calls, seconds))
        await _split(run, cluster, 2.0)
        await starting
        for number, result in enumerate(await asyncio.gather(*calls), 1):
            run.must(result.is_success, f"call {number} on its own side is answered: {result}")
            ran = cluster.executions()[-number]
            run.must(ran == 1, f"call {number} ran once, not {ran} times")


async def _call_on_either_side(cluster: FaultCluster, calls: list[asyncio.Task[Any]], seconds: float) -> None:
    """Begin the calls once the load runs, which is right before the cut."""
    await cluster.until(lambda: bool(cluster.log()))
    (far,) = cluster.observers
    for number, (caller, node_id) in enumerate(((cluster.callers[0], "n1"), (far, "n3")), 1):
        calls.append(asyncio.create_task(caller.send_to_node(Long(-number, seconds), node_id)))
