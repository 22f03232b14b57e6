"""A cluster of real processes under load, and what became of every request."""

import asyncio
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

from messages import Members

from catga import DistributedMediator, Mediator, NodeChangeEvent, NodeChangeType, add_cluster
from catga.errors import CatgaError
from catga.node import NodeState
from catga.result import Failure

HERE = Path(__file__).parent


@dataclass
class Attempt:
    """One request: when it was sent, when it ended, how."""

    id: int
    sent: float
    ended: float = 0.0
    node_id: str = ""
    attempts: int = 0
    error: CatgaError | None = None

    @property
    def seconds(self) -> float:
        return self.ended - self.sent


@dataclass
class Report:
    """What became of a load."""

    attempts: list[Attempt] = field(default_factory=list)

    @property
    def failed(self) -> list[Attempt]:
        return [a for a in self.attempts if a.error is not None]

    @property
    def errors(self) -> Counter[str]:
        return Counter(f"{a.error.code}/{a.error.execution.value}" for a in self.failed if a.error)

    def p(self, share: float, since: float = 0.0) -> float:
        """Quantile of the latency, in seconds, of the requests sent after `since`."""
        times = sorted(a.seconds for a in self.attempts if a.sent >= since and a.error is None)
        return times[min(int(len(times) * share), len(times) - 1)] if times else float("nan")

    def mean_attempts(self) -> float:
        return sum(max(a.attempts, 1) for a in self.attempts) / max(len(self.attempts), 1)


class Node:
    """One worker process."""

    def __init__(self, url: str, node_id: str, log: Path, options: dict[str, Any]) -> None:
        self.node_id = node_id
        given = json.dumps(options, default=bytes.decode)  # signing keys are bytes
        self._command = [sys.executable, str(HERE / "worker.py"), url, node_id, str(log), given]
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(*self._command, stdout=subprocess.PIPE, cwd=HERE)
        assert self._process.stdout is not None
        async with asyncio.timeout(90):  # many start at once
            line = await self._process.stdout.readline()
        assert line == b"ready\n", f"{self.node_id} did not start"
        return self

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def wait(self) -> int:
        assert self._process is not None
        async with asyncio.timeout(60):
            return await self._process.wait()

    async def end(self) -> None:
        if self._process is not None and self._process.returncode is None:
            for number in (signal.SIGCONT, signal.SIGKILL):
                self._process.send_signal(number)
            await self._process.wait()


class Execution(NamedTuple):
    """A handler that started: of which request, where, and when, by ``time.monotonic()``, which all processes share."""

    id: int
    node_id: str
    at: float


class Departed(NamedTuple):
    """A watcher saw a node leave."""

    watcher: str
    node_id: str
    reason: str
    at: float


class FaultCluster:
    """Worker processes, and callers in this process, on one broker.

    Args:
        server: has a `url`, for all who are given no other.
        callers: how many nodes of this process send the load.
        caller_options: of `add_cluster`, for these only.
        options: of `add_cluster`, for all.
    """

    def __init__(
        self,
        server: Any,
        *,
        callers: int = 2,
        url: str = "",
        caller_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.background: set[asyncio.Task[Any]] = set()
        self.url = url or server.url
        self.options = {"ttl": 60, "heartbeat_interval": 15, **options}
        self.nodes: dict[str, Node] = {}
        self.events: dict[str, list[tuple[float, NodeChangeEvent]]] = {}
        self.callers: list[DistributedMediator] = []
        self.observers: list[DistributedMediator] = []
        self._caller_options = {"drain_timeout": 2.0, **(caller_options or {})}
        self._folder = tempfile.TemporaryDirectory(prefix="catga-faults-")
        self._log = Path(self._folder.name) / "executions"
        self._log.touch()
        self._left = Path(f"{self._log}.left")
        self._left.touch()
        self._number = callers
        self._tasks: list[asyncio.Task[None]] = []
        self._next_id = 0
        self._started = 0.0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for member in (*self.callers, *self.observers):
            await member.stop()
        await asyncio.gather(*self._tasks)
        for node in self.nodes.values():
            await node.end()
        self._folder.cleanup()

    async def start(
        self, nodes: Iterable[str] | Mapping[str, str] = ("n1", "n2", "n3"), observers: Iterable[str] = ()
    ) -> None:
        """Start everybody, and return when the members of this process know all.

        Args:
            nodes: their ids, and where each connects if it is not `url`.
            observers: URLs; for each a member of this process that is no caller, but watches from there.
        """
        places = nodes if isinstance(nodes, Mapping) else dict.fromkeys(nodes, "")
        async with asyncio.TaskGroup() as starting:
            for node_id, url in places.items():
                starting.create_task(self.add(node_id, url=url))
        for number in range(1, self._number + 1):
            self.callers.append(await self._join(f"caller-{number}", self.url))
        for number, url in enumerate(observers, 1):
            self.observers.append(await self._join(f"observer-{number}", url))
        self._started = time.monotonic()
        await self.until(lambda: all(len(m.get_nodes()) == len(self.ids()) for m in self.members))

    async def settled(self) -> None:
        """Wait until everybody may declare deaths: a newcomer does not, as the others may be coming back."""
        await asyncio.sleep(max(self._started + 6.0 - time.monotonic(), 0.0))

    async def add(self, node_id: str, *, url: str = "", **options: Any) -> Node:
        node = Node(url or self.url, node_id, self._log, {**self.options, **options})
        self.nodes[node_id] = node  # before it runs: it is ended whatever happens
        return await node.start()

    @property
    def members(self) -> list[DistributedMediator]:
        """Those of this process."""
        return [*self.callers, *self.observers]

    def ids(self) -> set[str]:
        """All who ought to be in every view: what was started, and not killed by `kill`."""
        return {*self.nodes, *(member.node_id for member in self.members)}

    async def kill(self, *node_ids: str) -> None:
        """SIGKILL, all at once."""
        killed = [self.nodes.pop(node_id) for node_id in node_ids]
        for node in killed:
            node.signal(signal.SIGKILL)
        self.background |= {asyncio.create_task(node.wait()) for node in killed}

    async def load(self, make: Callable[[int], Any], seconds: float, rate: float = 500.0) -> Report:
        """Requests at a steady rate, open loop, from all callers in turn; returns when all have ended."""
        report = Report()
        started = time.monotonic()
        sending: set[asyncio.Task[None]] = set()
        while (now := time.monotonic()) < started + seconds:
            while len(report.attempts) < (now - started) * rate:
                task = self._send_next(report, make)
                sending.add(task)
                task.add_done_callback(sending.discard)
            await asyncio.sleep(0.005)
        await asyncio.gather(*sending)
        return report

    async def burst(self, make: Callable[[int], Any], number: int) -> Report:
        """So many requests at once, from all callers in turn; returns when all have ended."""
        report = Report()
        await asyncio.gather(*[self._send_next(report, make) for _ in range(number)])
        return report

    def _send_next(self, report: Report, make: Callable[[int], Any]) -> asyncio.Task[None]:
        self._next_id += 1
        attempt = Attempt(self._next_id, time.monotonic())
        report.attempts.append(attempt)
        caller = self.callers[self._next_id % len(self.callers)]
        return asyncio.create_task(self._one(caller, attempt, make))

    async def _one(self, caller: DistributedMediator, attempt: Attempt, make: Callable[[int], Any]) -> None:
        result = await caller.send(make(attempt.id))
        attempt.ended = time.monotonic()
        attempt.node_id, attempt.attempts = result.metadata.node_id, result.metadata.attempts
        if isinstance(result, Failure):
            attempt.error = result.error

    async def _join(self, node_id: str, url: str) -> DistributedMediator:
        member = add_cluster(Mediator(), url, node_id=node_id, **{**self.options, **self._caller_options})
        await member.start()
        self.events[node_id] = []
        self._tasks.append(asyncio.create_task(self._watch(member)))
        return member

    async def _watch(self, member: DistributedMediator) -> None:
        async for event in member.watch():
            self.events[member.node_id].append((time.monotonic(), event))

    def log(self) -> list[Execution]:
        """What started, on all nodes together, in the order of the starts on each."""
        lines = (line.split() for line in self._log.read_text().splitlines())
        return [Execution(int(number), node_id, float(at)) for number, node_id, at in lines]

    def executions(self) -> Counter[int]:
        """How often each request ran, on all nodes together."""
        return Counter(execution.id for execution in self.log())

    def run_twice(self) -> int:
        return sum(1 for count in self.executions().values() if count > 1)

    def departures(self, since: float) -> list[Departed]:
        """Who saw whom leave after `since`: the members of this process, and the nodes. Times count from `since`."""
        lines = [line.split() for line in self._left.read_text().splitlines()]
        seen = [Departed(watcher, node_id, why, float(at) - since) for at, watcher, node_id, why in lines]
        for watcher, changes in self.changes(since, NodeChangeType.LEFT).items():
            seen += [Departed(watcher, event.node.node_id, event.reason.value, at) for at, event in changes]
        return [each for each in seen if each.at >= 0]

    async def is_whole(self) -> bool:
        """Whether everybody sees everybody alive, the nodes included: they are asked."""
        everybody = self.ids()
        for member in self.members:
            if {n.node_id for n in member.get_nodes() if n.state is NodeState.ALIVE} != everybody:
                return False
        asker = self.callers[0]
        views = await asyncio.gather(*[asker.send_to_node(Members(), node_id) for node_id in self.nodes])
        return all(view.is_success and set(view.unwrap()) == everybody for view in views)

    def changes(self, since: float, *types: NodeChangeType) -> dict[str, list[tuple[float, NodeChangeEvent]]]:
        """Events of these types after `since`, by watcher."""
        return {
            watcher: [(at - since, event) for at, event in events if at >= since and event.type in types]
            for watcher, events in self.events.items()
        }

    async def until(self, condition: Callable[[], bool], within: float = 60.0) -> float:
        """Wait until `condition` holds; returns the seconds that it took."""
        started = time.monotonic()
        while not condition():
            assert time.monotonic() - started < within, "a condition did not come true in time"
            await asyncio.sleep(0.01)
        return time.monotonic() - started
