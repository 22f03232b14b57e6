"""A node's link to the broker, through a proxy that cuts it, or lets it hang half-open."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from catga import DistributedMediator, Mediator, NodeChangeType, Request, add_cluster, message
from catga.node import NodeState
from catga.result import Failure
from catga.testing.proxy import Proxy
from catga.testing.servers import NatsServer, RedisServer, Server
from catga.testing.waiting import eventually

pytestmark = pytest.mark.timeout(180)
PATIENCE = 60.0


@message(idempotent=True, timeout=30.0, name="link.Work")
class Work(msgspec.Struct, Request[str], frozen=True):
    id: int


@pytest.fixture(params=[NatsServer, RedisServer])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    with request.param() as server:
        yield server


def app(node_id: str) -> Mediator:
    mediator = Mediator()

    @mediator.handler
    async def work(request: Work) -> str:
        await asyncio.sleep(0.002)
        return node_id

    return mediator


class Trio:
    """A caller and two workers; the link of ``far`` goes through a proxy."""

    def __init__(self, url: str) -> None:
        self.proxy = Proxy(url)
        self._url = url
        self._stack = AsyncExitStack()
        self.departed: list[str] = []
        self.errors: list[str] = []
        self.answers: list[str] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Trio":
        enter = self._stack.enter_async_context
        await enter(self.proxy)
        options: dict[str, Any] = {"drain_timeout": 2.0, "probe_interval": 0.5}
        self.near = await enter(add_cluster(app("near"), self._url, node_id="near", **options))
        self.far = await enter(add_cluster(app("far"), self.proxy.url, node_id="far", **options))
        self.caller = await enter(add_cluster(Mediator(), self._url, node_id="caller", **options))
        for node in (self.near, self.far, self.caller):
            await eventually(lambda node=node: len(node.get_nodes()) == 3)
        self._tasks = [asyncio.create_task(self._watch(node)) for node in (self.near, self.caller, self.far)]
        self._tasks.append(asyncio.create_task(self._load()))
        await eventually(lambda: {"near", "far"} <= set(self.answers))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.proxy.heal()
        await self._stack.aclose()

    def state(self) -> NodeState | None:
        return next((node.state for node in self.caller.get_nodes() if node.node_id == "far"), None)

    async def is_used(self) -> bool:
        """Whether ``far`` answers from now on."""
        seen = len(self.answers)
        await eventually(lambda: "far" in self.answers[seen:], PATIENCE)
        return True

    async def _watch(self, node: DistributedMediator) -> None:
        async for event in node.watch():
            if event.type is NodeChangeType.LEFT:
                self.departed.append(event.node.node_id)

    async def _load(self) -> None:
        sending: set[asyncio.Task[None]] = set()
        try:
            while True:
                task = asyncio.create_task(self._one())
                sending.add(task)
                task.add_done_callback(sending.discard)
                await asyncio.sleep(0.01)
        finally:
            for task in sending:
                task.cancel()

    async def _one(self) -> None:
        result = await self.caller.send(Work(1))
        if isinstance(result, Failure):
            self.errors.append(repr(result.error))
        else:
            self.answers.append(result.value)


async def test_a_half_open_link_is_routed_around_and_back_after_healing(server: Server) -> None:
    async with Trio(server.url) as trio:
        trio.proxy.half_open()
        await eventually(lambda: trio.state() is NodeState.SUSPECT, PATIENCE)
        seen = len(trio.answers)
        await eventually(lambda: len(trio.answers) > seen + 100, PATIENCE)
        trio.proxy.heal()
        await eventually(lambda: trio.state() is NodeState.ALIVE, PATIENCE)
        assert await trio.is_used()
        assert trio.errors == []
        assert trio.departed == []


async def test_a_slow_link_delays_and_loses_nothing(server: Server) -> None:
    async with Trio(server.url) as trio:
        trio.proxy.delay = 0.05
        seen = len(trio.answers)
        await eventually(lambda: len(trio.answers) > seen + 200, PATIENCE)
        trio.proxy.heal()
        assert await trio.is_used()
        assert trio.errors == []
        assert trio.departed == []


async def test_connections_that_are_reset_come_back_and_nobody_leaves(server: Server) -> None:
    async with Trio(server.url) as trio:
        for _ in range(3):
            trio.proxy.drop()
            await eventually(lambda: trio.far.health != "healthy", PATIENCE)
            await eventually(lambda: trio.far.health == "healthy", PATIENCE)
            assert await trio.is_used()
        assert trio.errors == []


async def test_a_node_that_was_cut_off_is_a_member_again_after_healing(server: Server) -> None:
    """The broker sees its connections close, so the others may well declare it crashed; it comes back by itself."""
    async with Trio(server.url) as trio:
        trio.proxy.cut()
        await eventually(lambda: trio.state() is not NodeState.ALIVE, PATIENCE)
        seen = len(trio.answers)
        await eventually(lambda: len(trio.answers) > seen + 100, PATIENCE)
        trio.proxy.heal()
        await eventually(lambda: trio.state() is NodeState.ALIVE, PATIENCE)
        assert await trio.is_used()
        assert trio.errors == []
        assert set(trio.departed) <= {"far"}


def account(password: str) -> str:
    return f'port: 0\nauthorization {{ users = [ {{ user: "it", password: "{password}" }} ] }}\n'


async def test_a_client_that_the_server_closed_for_good_begins_anew(tmp_path: Path) -> None:
    """nats-py ends for ever on an -ERR such as a revoked account; the node goes on trying, and gets in again."""
    config = tmp_path / "nats.conf"
    config.write_text(account("first"))
    with NatsServer(args=["-c", str(config)]) as broker:
        url = f"nats://it:first@127.0.0.1:{broker.port}"
        async with (
            add_cluster(app("worker"), url, node_id="worker") as worker,
            add_cluster(Mediator(), url, node_id="caller") as caller,
        ):
            assert (await caller.send(Work(1))).unwrap() == "worker"
            config.write_text(account("second"))
            reload(broker)
            await eventually(lambda: {worker.health, caller.health} == {"degraded"}, PATIENCE)
            config.write_text(account("first"))
            reload(broker)
            await eventually(lambda: {worker.health, caller.health} == {"healthy"}, PATIENCE)
            assert (await caller.send(Work(2))).unwrap() == "worker"
            assert [node.node_id for node in caller.get_nodes()] == ["caller", "worker"]


def reload(broker: Server) -> None:
    assert broker.pid is not None
    os.kill(broker.pid, signal.SIGHUP)
