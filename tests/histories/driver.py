"""Runs a plan: one broker, real processes, and the faults at their times. What was done is written down as well."""

import asyncio
import os
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, Self

import msgspec
from tests.histories.plan import BROKER, CALM, FaultPlan, Plan
from tests.histories.records import Failed, Fault, Gone, Left, Log, Mark, now, read

from catga.testing.proxy import Proxy
from catga.testing.servers import NatsServer, RedisServer, Server

ROOT = Path(__file__).parents[2]
JOIN_TIMEOUT = 60.0
LOAD_TIMEOUT = 60.0
BROKERS: dict[str, type[Server]] = {"nats": NatsServer, "redis": RedisServer}


class Process:
    """One child: a module of this folder, which prints words when it has got somewhere."""

    def __init__(self, module: str, arguments: tuple[str, ...], errors: Path) -> None:
        self._command = [sys.executable, "-m", f"tests.histories.{module}", *arguments]
        self._errors = errors
        self._child: asyncio.subprocess.Process | None = None

    @property
    def child(self) -> asyncio.subprocess.Process:
        assert self._child is not None
        return self._child

    @property
    def runs(self) -> bool:
        return self._child is not None and self._child.returncode is None

    async def start(self) -> None:
        """Start it, and wait until it is ready."""
        with self._errors.open("ab") as errors:
            self._child = await asyncio.create_subprocess_exec(
                *self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, cwd=ROOT
            )
        await self.says("ready", JOIN_TIMEOUT)

    async def says(self, word: str, within: float) -> None:
        """Wait for its next line. Raises AssertionError if that is another, e.g. as the process has ended."""
        assert self.child.stdout is not None
        line = await asyncio.wait_for(self.child.stdout.readline(), within)
        assert line.decode().strip() == word, f"{self._command[2:4]}: {line!r}, see {self._errors}"

    def tell(self, line: str) -> None:
        assert self.child.stdin is not None
        self.child.stdin.write(f"{line}\n".encode())

    def send(self, what: signal.Signals) -> None:
        """Send it a signal, if it runs; not by `send_signal`, which would reap a dead child behind asyncio's back."""
        if self.runs:
            with suppress(ProcessLookupError):
                os.kill(self.child.pid, what)

    async def end(self, how: signal.Signals) -> None:
        """End it by this signal and wait for that; a frozen one is ended, too."""
        self.send(how)
        self.send(signal.SIGCONT)
        if self._child is None:
            return
        try:
            await asyncio.wait_for(self.child.wait(), 30.0)
        except TimeoutError:
            self.child.kill()
            await self.child.wait()


class Stage:
    """The broker, the proxies and the processes of one history; use it with ``async with``."""

    def __init__(self, plan: Plan, on: str, folder: Path) -> None:
        self.plan = plan
        self.folder = folder
        self.log = Log(folder / "driver.jsonl")
        self.broker = BROKERS[on]()
        self.proxies: dict[str, Proxy] = {}
        self.workers: dict[str, Process] = {}
        self.callers: dict[str, Process] = {}
        self._busy: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self.broker)
        for member in (*self.plan.workers, *self.plan.callers):
            if member.proxied:
                self.proxies[member.node] = await self._stack.enter_async_context(Proxy(self.broker.url))
        for worker in self.plan.workers:
            self.workers[worker.node] = self._process("worker", worker.node, _json(worker))
        for caller in self.plan.callers:
            self.callers[caller.node] = self._process("caller", caller.node, _json(self.plan), caller.node)
        return self

    async def __aexit__(self, *_: object) -> None:
        children = (*self.callers.values(), *self.workers.values())
        await asyncio.gather(*(child.end(signal.SIGKILL) for child in children))
        (self.folder / "broker.log").write_text(self.broker.log)
        await self._stack.aclose()

    def _process(self, module: str, node: str, *arguments: str) -> Process:
        url = self.proxies[node].url if node in self.proxies else self.broker.url
        return Process(module, (url, str(self.folder), *arguments), self.folder / f"{node}.err")

    async def run(self) -> None:
        """The whole history."""
        await asyncio.gather(*(child.start() for child in self.workers.values()))
        await asyncio.gather(*(child.start() for child in self.callers.values()))
        begin = now()
        self.log.write(Mark(at=begin, what="begin"))
        self._tell_callers(str(begin))
        await _all(self._at(begin, fault) for fault in self.plan.faults)
        await asyncio.sleep(max(begin + self.plan.seconds - now(), 0.0))
        self.log.write(Mark(at=now(), what="calm"))
        await asyncio.sleep(CALM)
        await self._finish()

    async def _finish(self) -> None:
        """The callers look at the members, and make their probes; then all leave."""
        await self._callers_say("done")
        self._tell_callers("the calm is over")
        await self._callers_say("probed")
        self.log.write(Mark(at=now(), what="end"))
        self._tell_callers("leave")
        for node, worker in self.workers.items():
            if not worker.runs:
                self.log.write(Failed(at=now(), node=node, text=f"ended by itself: {worker.child.returncode}"))
        await asyncio.gather(*(child.end(signal.SIGTERM) for child in self.workers.values()))

    async def _callers_say(self, word: str) -> None:
        await asyncio.gather(*(caller.says(word, LOAD_TIMEOUT) for caller in self.callers.values()))

    def _tell_callers(self, line: str) -> None:
        for caller in self.callers.values():
            caller.tell(line)

    async def _at(self, begin: float, fault: FaultPlan) -> None:
        await asyncio.sleep(max(begin + fault.at - now(), 0.0))
        async with self._busy[fault.target]:  # a restart may take longer than planned
            at = now()
            await _DO[fault.what](self, fault)
            self.log.write(Fault(at=at, target=fault.target, what=fault.what, until=now()))

    # -- the faults ----------------------------------------------------------------------------------

    async def kill(self, fault: FaultPlan) -> None:
        if fault.target == BROKER:
            self.broker.kill()
            await asyncio.sleep(fault.lasts)
            await asyncio.to_thread(self.broker.start)
        else:
            await self._end(fault, signal.SIGKILL)

    async def terminate(self, fault: FaultPlan) -> None:
        await self._end(fault, signal.SIGTERM)

    async def _end(self, fault: FaultPlan, how: signal.Signals) -> None:
        worker = self.workers[fault.target]
        since = now()
        self.log.write(Gone(at=since, node=fault.target, life=worker.child.pid))
        await worker.end(how)
        self.log.write(Left(at=now(), node=fault.target, status=worker.child.returncode or 0, seconds=now() - since))
        await asyncio.sleep(fault.lasts)
        await worker.start()

    async def freeze(self, fault: FaultPlan) -> None:
        if fault.target == BROKER:
            self.broker.freeze()
            await asyncio.sleep(fault.lasts)
            self.broker.thaw()
        else:
            worker = self.workers[fault.target]
            worker.send(signal.SIGSTOP)
            await asyncio.sleep(fault.lasts)
            worker.send(signal.SIGCONT)

    async def reset(self, fault: FaultPlan) -> None:
        self.proxies[fault.target].drop()

    async def cut(self, fault: FaultPlan) -> None:
        await self._while(fault, self.proxies[fault.target].cut)

    async def half_open(self, fault: FaultPlan) -> None:
        await self._while(fault, self.proxies[fault.target].half_open)

    async def _while(self, fault: FaultPlan, begin: Callable[[], None]) -> None:
        begin()
        await asyncio.sleep(fault.lasts)
        self.proxies[fault.target].heal()

    async def burst(self, fault: FaultPlan) -> None:
        """The callers do it by themselves."""
        await asyncio.sleep(fault.lasts)


_DO: dict[str, Callable[[Stage, FaultPlan], Awaitable[None]]] = {
    "kill": Stage.kill,
    "terminate": Stage.terminate,
    "freeze": Stage.freeze,
    "reset": Stage.reset,
    "cut": Stage.cut,
    "half-open": Stage.half_open,
    "burst": Stage.burst,
}


async def _all(coroutines: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run them together; if one fails the others end before this does."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


async def run(plan: Plan, on: str, folder: Path) -> list[Any]:
    """Run this plan on ``nats`` or ``redis``; what was written down, in the order of time.

    A process that did not get where it should ends the history, and is written down as `Failed`.
    """
    async with Stage(plan, on, folder) as stage:
        try:
            await stage.run()
        except (AssertionError, TimeoutError) as error:
            stage.log.write(Failed(at=now(), node="driver", text=repr(error)))
    return read(folder)
