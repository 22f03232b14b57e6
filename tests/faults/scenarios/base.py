"""What a scenario is, and what the scenarios share: a load around a fault, and the promises that are checked often."""

import asyncio
import inspect
import itertools
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from harness import FaultCluster, Report

from catga import NodeChangeType
from catga.node import NodeState
from catga.testing.servers import NatsServer, RedisServer, Server

JOINED, UPDATED, LEFT = NodeChangeType.JOINED, NodeChangeType.UPDATED, NodeChangeType.LEFT
ALIVE = NodeState.ALIVE
BOTH = ("nats", "redis")


@dataclass
class Run:
    """One fault on one broker.

    Attributes:
        kind: ``nats`` or ``redis``.
        server: the broker, or the servers together, as the scenario's `bed` gives them.
        patience: factor on every time that must hold: 1 for the table, more for tests on a busy machine.
        problems: what did not hold.
    """

    kind: str
    server: Any
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
        return self.kind == "nats"

    @property
    def is_strict(self) -> bool:
        """Whether it is for the table: as long and as strict as promised."""
        return self.patience == 1


Play = Callable[[Run], Awaitable[None]]
Bed = Callable[[str], AbstractAsyncContextManager[Any]]


def one_broker(kind: str) -> Server:
    """The `bed` of most scenarios."""
    return NatsServer() if kind == "nats" else RedisServer()


class Scenario(NamedTuple):
    """A fault, and what must hold.

    Attributes:
        fault: its line in the table.
        play: breaks something under load and says what must have held.
        on: the kinds of broker that it is about.
        long: those of them on which it runs in ``make test-long`` only. On the others it takes turns, see `in_turn`.
        bed: starts what it runs on, given the kind of broker.
    """

    fault: str
    play: Play
    on: tuple[str, ...] = BOTH
    long: tuple[str, ...] = ()
    bed: Bed = one_broker


SCENARIOS: dict[str, Scenario] = {}


def scenario(**options: Any) -> Callable[[Play], Play]:
    """Register a function, by its name, as the `Scenario` that its docstring names. Options: fields of `Scenario`."""

    def add(play: Play) -> Play:
        SCENARIOS[play.__name__] = Scenario(inspect.getdoc(play) or play.__name__, play, **options)  # type: ignore[attr-defined]
        return play

    return add


def in_turn(scenarios: Mapping[str, Scenario]) -> dict[str, str]:
    """The kind of broker on which each runs in ``make test``, by its name; on all others it is long. Those that may run
    on either do so on one and the other in turn, so that each broker has half of them."""
    free = {name: [kind for kind in each.on if kind not in each.long] for name, each in scenarios.items()}
    turns = itertools.cycle(BOTH)
    return {name: kinds[0] if len(kinds) == 1 else next(turns) for name, kinds in free.items() if kinds}


async def run_scenario(name: str, kind: str, *, rate: float, patience: float) -> Run:
    """Start what one scenario runs on, of that kind, run it there, and return what it found. What the scenario waits
    for and does not come is a problem, too."""
    chosen = SCENARIOS[name]
    async with chosen.bed(kind) as server:
        run = Run(kind, server, rate=rate, patience=patience, fault=chosen.fault)
        try:
            await chosen.play(run)
        except AssertionError as error:
            run.problems.append(str(error))
        return run


async def nothing() -> None:
    """The fault of a scenario in which nothing breaks but the load."""


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
        min((at for at, e in changes if e.node.node_id == node_id and e.node.state is not ALIVE), default=None)
        for changes in cluster.changes(since, UPDATED, LEFT).values()
    ]
    return None if None in times else max(t for t in times if t is not None)


async def seconds_until(condition: Callable[[], Awaitable[bool]], since: float, within: float) -> float | None:
    """The seconds from `since` on until `condition` holds; None if it does not `within` so many."""
    while not await condition():
        if time.monotonic() > since + within:
            return None
        await asyncio.sleep(0.05)
    return time.monotonic() - since


async def whole_again(run: Run, cluster: FaultCluster, since: float, limit: float) -> None:
    """Everybody sees everybody alive."""
    run.recovery = await seconds_until(cluster.is_whole, since, max(30.0, limit * run.patience))
    run.within(run.recovery, limit, "all views whole")


def nobody_left(run: Run, cluster: FaultCluster, since: float) -> None:
    """No watcher in any process saw a node leave, as none did."""
    seen = [f"{d.watcher} saw {d.node_id} leave ({d.reason})" for d in cluster.departures(since)]
    run.must(not seen, f"nobody left, but {len(seen)} times: {', '.join(seen[:4])}")


def serve_again(run: Run, report: Report, since: float, node_ids: Iterable[str], limit: float) -> None:
    """Each of these nodes answers a request that was sent after `since`, and requests that were sent later than the
    limit do not fail."""
    for node_id in node_ids:
        ended = [a.ended for a in report.attempts if a.node_id == node_id and a.sent > since and a.error is None]
        run.within(min(ended) - since if ended else None, limit, f"{node_id} serves again")
    failed = [a for a in report.failed if a.sent > since + limit * run.patience]
    run.must(not failed, f"requests succeed again, {len(failed)} did not")
