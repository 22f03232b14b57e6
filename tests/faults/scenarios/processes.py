"""A process dies, stops, restarts, or has a wrong clock."""

import asyncio
import signal

from harness import FaultCluster
from messages import Block, Order, Work

from scenarios.base import Run, left_once, no_membership_events, scenario, suspected_after, under_load


@scenario()
async def sigkill_not_idempotent(run: Run) -> None:
    """SIGKILL of a node, other requests"""
    async with FaultCluster(run.server) as cluster:
        await cluster.start()
        await cluster.settled()

        async def kill() -> None:
            cluster.nodes["n2"].signal(signal.SIGKILL)

        report, began = await under_load(run, cluster, Order, kill, 5.0)
        for attempt in report.failed:
            run.must(attempt.sent < began + 0.1, f"request {attempt.id} was sent before the death")
            run.must(attempt.error is not None and attempt.error.code == "maybe_executed", "fails as maybe executed")
            run.within(attempt.ended - began, 3.0, "fails at once")
        run.must(run.twice == 0, "nothing ran twice")
        await cluster.until(lambda: all(len(c.get_nodes()) == 4 for c in cluster.callers))
        left_once(run, cluster, began, "n2", 3.0)


@scenario()
async def sigstop(run: Run) -> None:
    """SIGSTOP of a node, then SIGCONT"""
    seconds = 20.0 if run.patience == 1 else 4.0
    async with FaultCluster(run.server) as cluster:
        await cluster.start()

        async def stop() -> None:
            cluster.nodes["n2"].signal(signal.SIGSTOP)
            await asyncio.sleep(seconds)
            cluster.nodes["n2"].signal(signal.SIGCONT)

        report, began = await under_load(run, cluster, Work, stop, seconds + 3.0)
        run.must(not report.failed, "no request failed")
        run.detection = suspected_after(cluster, began, "n2")
        run.within(run.detection, 2.0, "routed around")
        no_membership_events(run, cluster, began)
        back = min((a.ended for a in report.attempts if a.node_id == "n2" and a.sent > began + seconds), default=None)
        run.must(back is not None, "it serves again")
        run.recovery = back and back - began - seconds
        run.within(run.recovery, 2.0, "back")


@scenario()
async def rolling_restart(run: Run) -> None:
    """Rolling restart of all nodes by SIGTERM"""
    async with FaultCluster(run.server) as cluster:
        await cluster.start()

        async def restart() -> None:
            for node_id in ("n1", "n2", "n3"):
                cluster.nodes[node_id].signal(signal.SIGTERM)
                await cluster.nodes[node_id].wait()
                await cluster.add(node_id)

        report, _ = await under_load(run, cluster, Order, restart, 6.0)
        run.must(not report.failed, "no request failed")
        run.must(run.twice == 0, "nothing ran twice")


@scenario()
async def blocked_event_loop(run: Run) -> None:
    """A handler blocks the event loop for 5 s"""
    async with FaultCluster(run.server) as cluster:
        await cluster.start()

        async def block() -> None:
            assert (await cluster.callers[0].send_to_node(Block(5.0), "n2")).is_success

        report, began = await under_load(run, cluster, Order, block, 8.0)
        run.must(not report.failed, "no request failed")
        run.must(run.twice == 0, "nothing ran twice")
        run.detection = suspected_after(cluster, began, "n2")
        run.within(run.detection, 2.0, "routed around")
        no_membership_events(run, cluster, began)


@scenario()
async def clock_skew(run: Run) -> None:
    """The clock of one node is an hour off"""
    async with FaultCluster(run.server) as cluster:
        await cluster.start(("n1", "n2"))

        async def restart_with_other_clock() -> None:
            await cluster.add("n3", clock_offset=3600)
            cluster.nodes["n3"].signal(signal.SIGTERM)
            await cluster.nodes["n3"].wait()
            await cluster.add("n3")  # an hour behind its former life

        report, _ = await under_load(run, cluster, Order, restart_with_other_clock, 6.0)
        run.must(not report.failed, "no request failed")
        run.must(any(a.node_id == "n3" for a in report.attempts[-100:]), "it serves with the clock set back")


@scenario()
async def two_processes_one_id(run: Run) -> None:
    """Two live processes with one node_id"""
    async with FaultCluster(run.server) as cluster:
        await cluster.start()

        async def second() -> None:
            first = cluster.nodes.pop("n2")
            await cluster.add("n2")
            cluster.nodes["n2 (first)"] = first

        report, _ = await under_load(run, cluster, Order, second, 5.0)
        run.must(not report.failed, "no request failed")
        run.must(run.twice == 0, "nothing ran twice")


@scenario()
async def quick_restart(run: Run) -> None:
    """Same id restarted right after SIGKILL"""
    async with FaultCluster(run.server) as cluster:
        await cluster.start()

        async def restart() -> None:
            cluster.nodes["n2"].signal(signal.SIGKILL)
            await cluster.add("n2")

        report, began = await under_load(run, cluster, Order, restart, 5.0)
        run.must(all(a.sent < began + 0.1 for a in report.failed), "only what the former life had taken fails")
        for attempt in report.failed:
            run.within(attempt.ended - began, 3.0, "fails at once")
        run.must(run.twice == 0, "nothing ran twice")
        run.must(any(a.node_id == "n2" for a in report.attempts[-100:]), "the new life serves")
