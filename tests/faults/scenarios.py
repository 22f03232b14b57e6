"""The faults: each a function that breaks something under load and says what must have held.

Shared by the tests (short, patient) and by ``bench/faults`` (longer, strict), which prints the table.
"""

import asyncio
import inspect
import json
import resource
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from harness import FaultCluster, Report
from messages import Block, Order, Raise, Work

from catga import Mediator, NodeChangeType, add_cluster
from catga.backends.nats.kv import bucket_name
from catga.testing.proxy import Proxy
from catga.testing.servers import NatsServer, RedisServer, Server

JOINED, UPDATED, LEFT = NodeChangeType.JOINED, NodeChangeType.UPDATED, NodeChangeType.LEFT


@dataclass
class Run:
    """One fault on one broker.

    Attributes:
        patience: factor on every time that must hold: 1 for the table, more for tests on a busy machine.
        problems: what did not hold.
    """

    server: Server
    rate: float = 500.0
    patience: float = 1.0
    fault: str = ""
    lost: int = 0
    twice: int = 0
    detection: float | None = None
    recovery: float | None = None
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def must(self, holds: bool, what: str) -> None:
        if not holds:
            self.problems.append(what)

    def within(self, seconds: float | None, limit: float, what: str) -> None:
        self.must(seconds is not None and seconds <= limit * self.patience, f"{what}: {seconds} s, limit {limit} s")

    def count(self, cluster: FaultCluster, report: Report) -> None:
        self.lost = len(report.failed)
        self.twice = cluster.run_twice()
        if report.failed:
            self.notes.append(", ".join(f"{n} × {code}" for code, n in sorted(report.errors.items())))

    @property
    def is_nats(self) -> bool:
        return isinstance(self.server, NatsServer)


Scenario = Callable[[Run], Awaitable[None]]
SCENARIOS: dict[str, Scenario] = {}
ONLY = {"store_wiped": "redis", "unrelated_keys": "redis", "bucket_deleted": "nats"}
"""Scenarios about a store of one broker."""


def scenario(function: Scenario) -> Scenario:
    SCENARIOS[function.__name__] = function  # type: ignore[attr-defined]
    return function


async def under_load(
    run: Run,
    cluster: FaultCluster,
    make: Callable[[int], Any],
    fault: Callable[[], Awaitable[None]],
    seconds: float,
    *,
    rate: float | None = None,
) -> tuple[Report, float]:
    """`seconds` of load with `fault` one second after its start. Returns the report and when the fault began."""
    loading = asyncio.create_task(cluster.load(make, seconds, rate or run.rate))
    await asyncio.sleep(1.0)
    began = time.monotonic()
    await fault()
    report = await loading
    run.count(cluster, report)
    return report, began


def no_membership_events(run: Run, cluster: FaultCluster, since: float) -> None:
    events = [e for changes in cluster.changes(since, JOINED, LEFT).values() for e in changes]
    run.must(not events, f"nobody joined or left, but {[(e.type.value, e.node.node_id) for _, e in events]}")


def left_once(run: Run, cluster: FaultCluster, since: float, node_id: str, limit: float) -> None:
    """Every watcher saw exactly this node leave, once."""
    for watcher, changes in cluster.changes(since, LEFT).items():
        run.must([e.node.node_id for _, e in changes] == [node_id], f"{watcher} saw {node_id} leave once")
        if changes:
            run.detection = max(run.detection or 0.0, changes[0][0])
    run.within(run.detection, limit, "all watchers saw it leave")


def suspected_after(cluster: FaultCluster, since: float, node_id: str) -> float | None:
    """Seconds until the last caller stopped choosing the node."""
    times = [
        min((at for at, e in changes if e.node.node_id == node_id), default=None)
        for changes in cluster.changes(since, UPDATED, LEFT).values()
    ]
    return None if None in times else max(t for t in times if t is not None)


@scenario
async def sigkill_idempotent(run: Run) -> None:
    """SIGKILL of a node, idempotent requests"""
    async with FaultCluster(run.server) as cluster:
        await cluster.start()
        await cluster.settled()

        async def kill() -> None:
            cluster.nodes["n2"].signal(signal.SIGKILL)

        report, began = await under_load(run, cluster, Work, kill, 5.0)
        await cluster.until(lambda: all(len(c.get_nodes()) == 4 for c in cluster.callers))
        run.must(not report.failed, "no request failed")
        run.recovery = suspected_after(cluster, began, "n2")
        run.within(run.recovery, 0.1, "unroutable")
        left_once(run, cluster, began, "n2", 3.0)


@scenario
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


@scenario
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


@scenario
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


@scenario
async def broker_restart_0_3s(run: Run) -> None:
    """Broker SIGKILL, back empty after 0.3 s"""
    await _broker_outage(run, 0.3, 5.0)
    run.must(run.lost == 0, "no request failed")


@scenario
async def broker_restart_1_5s(run: Run) -> None:
    """Broker SIGKILL, back empty after 1.5 s"""
    await _broker_outage(run, 1.5, 6.0)


@scenario
async def broker_restart_30s(run: Run) -> None:
    """Broker SIGKILL, back empty after 30 s"""
    await _broker_outage(run, 30.0 if run.patience == 1 else 12.0, 35.0 if run.patience == 1 else 16.0)


@scenario
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


@scenario
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


@scenario
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


@scenario
async def overload(run: Run) -> None:
    """5 × overload"""
    seconds = 30.0 if run.patience == 1 else 5.0
    capacity = 3 * 4 / 0.05  # nodes × places / seconds a call
    async with FaultCluster(run.server, max_concurrency=4, max_queue=8) as cluster:
        await cluster.start()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

        async def nothing() -> None:
            pass

        report, _ = await under_load(run, cluster, lambda i: Order(i, 0.05), nothing, seconds, rate=5 * capacity)
        good = [a for a in report.attempts if a.error is None]
        goodput = len(good) / seconds
        run.notes.append(f"goodput {goodput / capacity:.2f} of capacity, refused in {_p99(report) * 1000:.0f} ms (p99)")
        run.must(
            goodput >= (0.8 if run.patience == 1 else 0.5) * capacity, f"goodput {goodput:.0f}/s of {capacity:.0f}/s"
        )
        run.must(set(report.errors) <= {"overloaded/no"}, f"refused as overloaded, {dict(report.errors)}")
        run.within(_p99(report), 0.1, "refused at once")
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        run.must(grown < 100_000, f"memory is flat, grew by {grown} KiB")
        run.lost = 0  # refusing is what must happen


def _p99(report: Report) -> float:
    times = sorted(a.seconds for a in report.failed)
    return times[int(len(times) * 0.99)] if times else 0.0


@scenario
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


@scenario
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


@scenario
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


@scenario
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


@scenario
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


@scenario
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


@scenario
async def unrelated_keys(run: Run) -> None:
    """100,000 unrelated keys with TTLs; SIGKILL of a node"""
    import redis.asyncio

    async with redis.asyncio.from_url(run.server.url) as client:
        for start in range(0, 100_000, 10_000):
            async with client.pipeline(transaction=False) as pipeline:
                for number in range(start, start + 10_000):
                    pipeline.set(f"other:{number}", b"x", ex=600)
                await pipeline.execute()
        await sigkill_idempotent(run)
        await client.flushall()


@scenario
async def every_handler_fails(run: Run) -> None:
    """Every handler fails with a retryable error"""
    async with FaultCluster(run.server) as cluster:
        await cluster.start()

        async def nothing() -> None:
            pass

        report, _ = await under_load(run, cluster, Raise, nothing, 3.0)
        executions = sum(cluster.executions().values())
        run.must(
            executions <= 1.2 * len(report.attempts), f"{executions} executions of {len(report.attempts)} requests"
        )
        run.must(len(report.failed) == len(report.attempts), "all fail with the handler's answer")
        run.lost, run.notes = 0, [f"{executions / len(report.attempts):.2f} executions a request"]


@scenario
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

        async def nothing() -> None:
            pass

        report, _ = await under_load(run, cluster, Order, nothing, 4.0)
        stop.set()
        await cancelling
        run.must(not report.failed, "the rest is unaffected")
        for caller in cluster.callers:
            pending = caller.counters["pending_calls"]
            run.must(pending == 0, f"{pending} calls are still pending")


async def _send(cluster: FaultCluster, number: int) -> None:
    await cluster.callers[0].send(Order(number, 0.05))


@scenario
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


async def run_scenario(name: str, kind: str, *, rate: float, patience: float) -> Run:
    """Start a broker of that kind, run one scenario on it, and return what it found."""
    function = SCENARIOS[name]
    server = NatsServer(jetstream=name == "bucket_deleted") if kind == "nats" else RedisServer()
    async with server:
        run = Run(server, rate=rate, patience=patience, fault=inspect.getdoc(function) or name)
        await function(run)
        return run
