"""What the steps stand on: node processes, the caller, what it saw of the members, and a flow of requests."""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncGenerator
from typing import NamedTuple

from catga import DistributedMediator, Failure, NodeChangeEvent, NodeChangeType
from catga.cli.demo.app import Resize

PATIENCE = 20.0
"""Seconds that anything may take before its step has failed."""


class StepFailedError(Exception):
    """A step did not prove what it says."""


def require(holds: bool, otherwise: str) -> None:
    """Raise `StepFailedError` unless it holds."""
    if not holds:
        raise StepFailedError(otherwise)


class Stage:
    """The caller's side of the demo."""

    def __init__(self, caller: DistributedMediator, url: str) -> None:
        self.caller = caller
        self.url = url
        self.nodes: dict[str, asyncio.subprocess.Process] = {}
        self._seen: list[tuple[NodeChangeEvent, float]] = []
        self._watching = asyncio.create_task(self._watch())

    async def start_node(self, node_id: str) -> None:
        """A new process; it ends with this one, as its standard input is a pipe from here."""
        self.nodes[node_id] = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "catga.cli.demo.app", node_id, self.url),
            stdin=asyncio.subprocess.PIPE,
            process_group=0,  # a Ctrl-C is for this process alone
        )

    async def end_node(self, node_id: str) -> int:
        """Tell the node to leave; returns the exit status of its process."""
        process = self.nodes[node_id]
        if process.stdin is not None:
            process.stdin.close()
        async with asyncio.timeout(PATIENCE):
            return await process.wait()

    async def saw(self, kind: NodeChangeType, node_id: str) -> tuple[NodeChangeEvent, float]:
        """That change of that node, and when (``time.monotonic``) the caller saw it; waits for it."""
        give_up = time.monotonic() + PATIENCE
        while time.monotonic() < give_up:
            for event, at in self._seen:
                if event.type is kind and event.node.node_id == node_id:
                    return event, at
            await asyncio.sleep(0.005)
        raise StepFailedError(f"the caller never saw that {node_id} {kind.value}")

    async def close(self) -> None:
        """End what still runs."""
        self._watching.cancel()
        living = [node_id for node_id, process in self.nodes.items() if process.returncode is None]
        await asyncio.gather(*(self.end_node(node_id) for node_id in living))

    async def _watch(self) -> None:
        async for event in self.caller.watch():
            self._seen.append((event, time.monotonic()))


class Call(NamedTuple):
    """One request of the flow, as its sender lived it."""

    sent: float
    took: float
    node_id: str
    attempts: int
    error: str


@contextlib.asynccontextmanager
async def flow(caller: DistributedMediator, per_second: int = 250) -> AsyncGenerator[list[Call], None]:
    """Requests at a steady rate, from half a second before the block to half a second after it.

    The list has all calls, in the order of their ends, once the block was left.
    """
    calls: list[Call] = []
    start = time.monotonic()
    enough = asyncio.Event()

    async def call(number: int) -> None:
        sent = time.monotonic()
        result = await caller.send(Resize(f"image-{number}"))
        error = repr(result.error) if isinstance(result, Failure) else ""
        calls.append(Call(sent, time.monotonic() - sent, result.metadata.node_id, result.metadata.attempts, error))

    async def run() -> None:
        async with asyncio.TaskGroup() as group:
            number = 0
            while not enough.is_set():
                group.create_task(call(number))
                number += 1
                await asyncio.sleep(max(0.0, start + number / per_second - time.monotonic()))

    running = asyncio.create_task(run())
    try:
        await asyncio.sleep(0.5)
        yield calls
        await asyncio.sleep(0.5)
    finally:
        enough.set()
        await running
