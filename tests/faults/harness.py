"""A cluster of real processes under load, and what became of every request."""

import asyncio
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from catga import DistributedMediator, Mediator, NodeChangeEvent, NodeChangeType, add_cluster
from catga.errors import CatgaError
from catga.result import Failure
from catga.testing.servers import Server

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
        self._command = [sys.executable, str(HERE / "worker.py"), url, node_id, str(log)]
        self._command += [f"{key}={value}" for key, value in options.items()]
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(*self._command, stdout=subprocess.PIPE, cwd=HERE)
        assert self._process.stdout is not None
        async with asyncio.timeout(30):
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


class FaultCluster:
    """Worker processes, and callers in this process, on one broker."""

    def __init__(self, server: Server, *, callers: int = 2, url: str = "", **options: Any) -> None:
        self.server = server
        self.background: set[asyncio.Task[Any]] = set()
        self.url = url or server.url
        self.options = {"ttl": 60, "heartbeat_interval": 15, **options}
        self.nodes: dict[str, Node] = {}
        self.events: dict[str, list[tuple[float, NodeChangeEvent]]] = {}
        self.callers: list[DistributedMediator] = []
        self._folder = tempfile.TemporaryDirectory(prefix="catga-faults-")
        self._log = Path(self._folder.name) / "executions"
        self._log.touch()
        self._number = callers
        self._tasks: list[asyncio.Task[None]] = []
        self._next_id = 0
        self._started = 0.0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for caller in self.callers:
            await caller.stop()
        await asyncio.gather(*self._tasks)
        for node in self.nodes.values():
            await node.end()
        self._folder.cleanup()

    async def start(self, node_ids: tuple[str, ...] = ("n1", "n2", "n3")) -> None:
        await asyncio.gather(*(self.add(node_id) for node_id in node_ids))
        for number in range(1, self._number + 1):
            caller = add_cluster(Mediator(), self.url, node_id=f"caller-{number}", drain_timeout=2.0, **self.options)
            await caller.start()
            self.callers.append(caller)
            self.events[caller.node_id] = []
            self._tasks.append(asyncio.create_task(self._watch(caller)))
        self._started = time.monotonic()
        await self.until(lambda: all(len(c.get_nodes()) == len(node_ids) + self._number for c in self.callers))

    async def settled(self) -> None:
        """Wait until everybody may declare deaths: a newcomer does not, as the others may be coming back."""
        await asyncio.sleep(max(self._started + 6.0 - time.monotonic(), 0.0))

    async def add(self, node_id: str, *, url: str = "", **options: Any) -> Node:
        node = await Node(url or self.url, node_id, self._log, {**self.options, **options}).start()
        self.nodes[node_id] = node
        return node

    async def load(self, make: Callable[[int], Any], seconds: float, rate: float = 500.0) -> Report:
        """Requests at a steady rate, open loop, from all callers in turn; returns when all have ended."""
        report = Report()
        started = time.monotonic()
        sending: set[asyncio.Task[None]] = set()
        while (now := time.monotonic()) < started + seconds:
            while len(report.attempts) < (now - started) * rate:
                self._next_id += 1
                attempt = Attempt(self._next_id, time.monotonic())
                report.attempts.append(attempt)
                caller = self.callers[self._next_id % len(self.callers)]
                task = asyncio.create_task(self._one(caller, attempt, make))
                sending.add(task)
                task.add_done_callback(sending.discard)
            await asyncio.sleep(0.005)
        await asyncio.gather(*sending)
        return report

    async def _one(self, caller: DistributedMediator, attempt: Attempt, make: Callable[[int], Any]) -> None:
        result = await caller.send(make(attempt.id))
        attempt.ended = time.monotonic()
        attempt.node_id, attempt.attempts = result.metadata.node_id, result.metadata.attempts
        if isinstance(result, Failure):
            attempt.error = result.error

    async def _watch(self, caller: DistributedMediator) -> None:
        async for event in caller.watch():
            self.events[caller.node_id].append((time.monotonic(), event))

    def executions(self) -> Counter[int]:
        """How often each request ran, on all nodes together."""
        return Counter(int(line) for line in self._log.read_text().split())

    def run_twice(self) -> int:
        return sum(1 for count in self.executions().values() if count > 1)

    def changes(self, since: float, *types: NodeChangeType) -> dict[str, list[tuple[float, NodeChangeEvent]]]:
        """Events of these types after `since`, by watcher."""
        return {
            watcher: [(at - since, event) for at, event in events if at >= since and event.type in types]
            for watcher, events in self.events.items()
        }

    async def until(self, condition: Callable[[], bool], within: float = 30.0) -> float:
        """Wait until `condition` holds; returns the seconds that it took."""
        started = time.monotonic()
        while not condition():
            assert time.monotonic() - started < within, "a condition did not come true in time"
            await asyncio.sleep(0.01)
        return time.monotonic() - started
