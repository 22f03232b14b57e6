"""What the tests of the backends share: quick nodes, a log of membership events, processes to kill."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import catga
from catga import DistributedMediator, Mediator, NodeChangeEvent, add_cluster
from catga.abc import Outgoing

HERE = Path(__file__).parent
HELLO = HERE.parent.parent / "examples" / "hello" / "hello.py"
HELLO_LINES = ["Hello World, this is alpha", "Hello World, this is beta"]


def node(url: str, node_id: str, **options: Any) -> DistributedMediator:
    """A node without handlers."""
    return add_cluster(Mediator(), url, node_id=node_id, **options)


def members(cluster: DistributedMediator) -> list[str]:
    """The ids of the nodes that can be routed to."""
    return [n.node_id for n in cluster.get_nodes() if n.is_online]


class Log:
    """All membership events that one node sees."""

    def __init__(self, cluster: DistributedMediator) -> None:
        self.events: list[NodeChangeEvent] = []
        self._watcher = cluster.watch()
        self._task = asyncio.create_task(self._read())

    def of(self, node_id: str) -> list[str]:
        """What happened to a node, updates left out."""
        types = [event.type.value for event in self.events if event.node.node_id == node_id]
        return [kind for kind in types if kind != "updated"]

    async def _read(self) -> None:
        async for event in self._watcher:
            self.events.append(event)


class Ear:
    """A `TransportListener` that remembers."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.undeliverable: list[tuple[str, int]] = []
        self.refused: list[tuple[str, int, str]] = []
        self.doubts: list[str] = []
        self.links: list[bool] = []

    def on_message(self, payload: bytes) -> None:
        self.messages.append(payload)

    def on_undeliverable(self, subject: str, token: int) -> None:
        self.undeliverable.append((subject, token))

    def on_refused(self, subject: str, token: int, reason: str) -> None:
        self.refused.append((subject, token, reason))

    def on_doubt(self, subject: str) -> None:
        self.doubts.append(subject)

    def on_link(self, up: bool) -> None:
        self.links.append(up)

    def on_closed(self, reason: str) -> None: ...


def outgoing(subject: str, *payloads: bytes) -> list[Outgoing]:
    """Messages with tokens 0, 1, 2 …"""
    return [Outgoing(subject, payload, token) for token, payload in enumerate(payloads)]


@asynccontextmanager
async def process(script: Path, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A Python process that can import this checkout; killed at the end."""
    source = str(Path(catga.__file__).parent.parent)
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        str(script),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": source},
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.communicate()


@asynccontextmanager
async def lone_node(url: str, node_id: str, *options: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that has joined as `node_id`."""
    async with process(HERE / "lone_node.py", url, node_id, *options) as child:
        assert child.stdout is not None
        assert await child.stdout.readline() == b"ready\n"
        yield child


async def lines_of(script: Path, *arguments: str) -> Sequence[str]:
    """What a script prints."""
    async with process(script, *arguments) as child:
        out, _ = await child.communicate()
        assert child.returncode == 0
        return out.decode().splitlines()
