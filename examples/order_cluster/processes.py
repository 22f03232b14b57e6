"""For run_local: the gateway and the nodes as child processes, and what an observer sees of them."""

import asyncio
import http.client
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from examples.order_cluster.messages import PlaceOrder

from catga import DistributedMediator, NodeChangeEvent, NodeChangeType
from catga.node import LeftReason
from catga.testing import eventually
from catga.testing.servers import free_port

ROOT = Path(__file__).parents[2]
PATIENCE = 30.0
"""Seconds that anything may take."""


class Answer(NamedTuple):
    """What the gateway said; the body is JSON."""

    status: int
    node: str
    body: Any


async def until(holds: Callable[[], bool]) -> None:
    """Returns when it holds; it is asked in a thread, as it asks the gateway."""
    async with asyncio.timeout(PATIENCE):
        while not await asyncio.to_thread(holds):  # noqa: ASYNC110 - another process's state
            await asyncio.sleep(0.02)


def check_alive(name: str, process: asyncio.subprocess.Process) -> None:
    """Raise ChildProcessError if it has ended."""
    if process.returncode is not None:
        raise ChildProcessError(f"{name} ended with exit status {process.returncode}")


class Processes:
    """Started with `start`; ended, if need be by force, with `close`.

    Args:
        app: the module of the node and the gateway.
        url: the broker's.
        observer: has joined.
    """

    def __init__(self, app: str, url: str, observer: DistributedMediator) -> None:
        self._app = app
        self._env = {**os.environ, "CATGA_URL": url}
        self._port = free_port()
        self._logs = tempfile.TemporaryDirectory(prefix="orders-")
        self._running: dict[str, asyncio.subprocess.Process] = {}
        self._seen: list[NodeChangeEvent] = []
        self._watching = asyncio.create_task(self._watch(observer))

    async def start_node(self, node_id: str) -> None:
        """Returns when the observer has seen it join."""
        before = len(self._seen)
        process = await self._start(node_id, self._app)

        def has_joined() -> bool:
            check_alive(node_id, process)
            return self._found(NodeChangeType.JOINED, node_id, before) is not None

        await eventually(has_joined, PATIENCE)

    async def start_gateway(self) -> None:
        """Returns when it is ready."""
        where = ("--host", "127.0.0.1", "--port", str(self._port))
        process = await self._start("gateway", "uvicorn", "--factory", f"{self._app}:gateway", *where)

        def is_ready() -> bool:
            check_alive("gateway", process)
            return self._is_ready()

        await until(is_ready)

    async def end(self, name: str, number: signal.Signals) -> tuple[LeftReason | None, int]:
        """Send a signal; returns why the observer thinks it left, and the exit status."""
        before = len(self._seen)
        process = self._running.pop(name)
        process.send_signal(number)
        async with asyncio.timeout(PATIENCE):
            status = await process.wait()
        left = await eventually(lambda: self._found(NodeChangeType.LEFT, name, before), PATIENCE)
        return (left.reason if left else None), status

    async def post(self, order: PlaceOrder) -> Answer:
        """Send the order to the gateway."""
        return await asyncio.to_thread(self._http, "POST", "/orders", msgspec.json.encode(order))

    async def gateway_sees(self, *node_ids: str) -> None:
        """Returns when these and no other nodes take orders, as the gateway sees it."""
        await until(lambda: self._alive() == sorted(node_ids))

    async def close(self) -> None:
        """End what still runs."""
        self._watching.cancel()
        for process in self._running.values():
            with suppress(ProcessLookupError):
                process.kill()
        await asyncio.gather(*(process.wait() for process in self._running.values()))
        self._logs.cleanup()

    @property
    def logs(self) -> str:
        """What the processes wrote."""
        return "\n".join(f"-- {p.name}\n{p.read_text()}" for p in sorted(Path(self._logs.name).iterdir()))

    # -- inside ---------------------------------------------------------------------------------------

    async def _start(self, name: str, *module: str) -> asyncio.subprocess.Process:
        with Path(self._logs.name, name).open("ab") as log:  # noqa: ASYNC230 - a local file
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", *module),
                cwd=ROOT,
                env={**self._env, "CATGA_NODE_ID": name},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,  # a Ctrl-C is for this process alone
            )
        self._running[name] = process
        return process

    async def _watch(self, observer: DistributedMediator) -> None:
        async for event in observer.watch():
            self._seen.append(event)

    def _found(self, kind: NodeChangeType, node_id: str, since: int) -> NodeChangeEvent | None:
        return next((e for e in self._seen[since:] if e.type is kind and e.node.node_id == node_id), None)

    def _is_ready(self) -> bool:
        try:
            return self._http("GET", "/health/ready").status == 200
        except OSError:
            return False

    def _alive(self) -> list[str]:
        nodes: list[dict[str, str]] = self._http("GET", "/nodes").body
        return sorted(n["node_id"] for n in nodes if n["service"] == "orders" and n["state"] == "alive")

    def _http(self, method: str, path: str, body: bytes | None = None) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        return Answer(response.status, response.getheader("x-node", ""), msgspec.json.decode(content))
