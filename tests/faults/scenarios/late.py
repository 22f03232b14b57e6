"""A call that its caller has given up does not start, however long a node, a broker or a link stood still."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from harness import FaultCluster, Report
from messages import Prompt, PromptPlain

from catga.routing import Queue
from catga.testing.proxy import Proxy
from scenarios.base import BOTH, SCENARIOS, Run, Scenario, under_load

TIMEOUT = 1.0
SLACK = 0.3
"""Seconds after a caller's deadline from which on a start is late."""

Still = Callable[[Run, FaultCluster, Proxy, float], Awaitable[None]]
"""Lets something stand still for so many seconds; n2 is behind the proxy."""


def _either(number: int) -> Prompt | PromptPlain:
    return PromptPlain(number) if number % 2 else Prompt(number)


async def _node(run: Run, cluster: FaultCluster, proxy: Proxy, seconds: float) -> None:
    cluster.nodes["n2"].signal(signal.SIGSTOP)
    await asyncio.sleep(seconds)
    cluster.nodes["n2"].signal(signal.SIGCONT)


async def _broker(run: Run, cluster: FaultCluster, proxy: Proxy, seconds: float) -> None:
    run.server.freeze()
    await asyncio.sleep(seconds)
    run.server.thaw()


async def _link(run: Run, cluster: FaultCluster, proxy: Proxy, seconds: float) -> None:
    proxy.hold()
    await asyncio.sleep(seconds)
    proxy.heal()


async def _late(run: Run, stand_still: Still, queue: bool) -> None:
    """The fault for 9 s, under load. Nothing starts later than its caller waits."""
    seconds = 9.0 if run.is_strict else 4.0
    routing = {"routing": Queue()} if queue else {}
    async with (
        Proxy(run.server.url) as proxy,
        FaultCluster(run.server, caller_options=routing, queues=queue) as cluster,
    ):
        await cluster.start({"n1": "", "n2": proxy.url, "n3": ""})
        thawed = 0.0

        async def still() -> None:
            nonlocal thawed
            await stand_still(run, cluster, proxy, seconds)
            thawed = time.monotonic()

        report, _ = await under_load(run, cluster, _either, still, seconds + 4.0)
        await asyncio.sleep(1.0)  # for what is late, and nobody waits for
        _nothing_is_late(run, cluster, report)
        after = [a.ended for a in report.attempts if a.sent > thawed and a.node_id == "n2" and a.error is None]
        run.recovery = min(after) - thawed if after else None


def _nothing_is_late(run: Run, cluster: FaultCluster, report: Report) -> None:
    slack = SLACK * min(run.patience, 3.0)
    ends = {attempt.id: attempt.sent + TIMEOUT + slack for attempt in report.attempts}
    late = [execution for execution in cluster.log() if execution.at > ends[execution.id]]
    plain = sum(1 for execution in late if execution.id % 2)
    run.must(not late, f"nothing starts late, but {plain} plain handlers and {len(late) - plain} others did")
    run.must(cluster.run_twice() == 0, f"nothing ran twice, but {cluster.run_twice()} did")


def _register() -> None:
    faults = {
        "frozen_node": (_node, "A node stands still for 9 s"),
        "frozen_broker": (_broker, "The broker stands still for 9 s"),
        "black_hole": (_link, "The link of a node stands still for 9 s"),
    }
    for name, (fault, words) in faults.items():
        for mark, queue, routing in (("", False, ""), ("_queue", True, ", `Queue()`")):
            play: Any = partial(_late, stand_still=fault, queue=queue)
            long = () if name + mark == "frozen_node" else BOTH
            SCENARIOS[f"late_{name}{mark}"] = Scenario(f"{words}, timeout 1 s{routing}", play, long=long)


_register()
