"""A NATS client that was handed in: what becomes of calls when it gives up, and what it tells."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nodes import node

from catga import CatgaError, DistributedMediator, Event, Mediator, Request, add_cluster, message
from catga.errors import ClosedError, ClusterError, Execution
from catga.testing.servers import NatsServer
from catga.testing.waiting import eventually

FOR_EVER = 3600.0
"""Seconds: a call that waits for its deadline is not over when the test is."""
PATIENCE = 60.0
JOIN = 4.0
"""Seconds for joining, in which a node that stops tries again what fails with the link, too."""


@message(timeout=FOR_EVER)
@dataclass(frozen=True)
class Hold(Request[str]):
    """Runs until its node ends."""


@message(timeout=FOR_EVER)
@dataclass(frozen=True)
class Ask(Request[str]):
    pass


@message(timeout=FOR_EVER)
@dataclass(frozen=True)
class Here(Request[str]):
    pass


@message(timeout=FOR_EVER)
@dataclass(frozen=True)
class Told(Event):
    pass


async def say_nothing(_: Exception) -> None: ...


@asynccontextmanager
async def given(url: str, **settings: Any) -> AsyncIterator[Client]:
    """A client that soon gives up."""
    client = await nats.connect(url, max_reconnect_attempts=1, reconnect_time_wait=0, error_cb=say_nothing, **settings)
    try:
        yield client
    finally:
        await client.close()


class World:
    def __init__(self, server: NatsServer, worker: DistributedMediator, caller: DistributedMediator) -> None:
        self.server = server
        self.worker = worker
        self.caller = caller
        self.held = asyncio.Event()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    app, own = Mediator(), Mediator()

    @app.handler
    async def hold(request: Hold) -> str:
        world.held.set()
        await asyncio.Event().wait()
        return ""

    @app.handler
    async def ask(request: Ask) -> str:
        return "answer"

    @app.handler
    async def told(event: Told) -> None: ...

    @own.handler
    async def here(request: Here) -> str:
        return "here"

    with NatsServer() as server:
        async with given(server.url) as client:
            worker = add_cluster(app, server.url, node_id="worker", drain_timeout=0.1, connect_timeout=JOIN)
            caller = add_cluster(own, server.url, node_id="caller", client=client, connect_timeout=JOIN)
            async with worker, caller:
                world = World(server, worker, caller)
                assert (await caller.send(Ask())).is_success
                yield world


async def failed(sending: "asyncio.Task[object]") -> CatgaError:
    result = await asyncio.wait_for(sending, PATIENCE)
    error: CatgaError = result.error  # type: ignore[attr-defined]
    assert isinstance(error, ClosedError)
    assert error.message.startswith("the link to the broker is down for good: the NATS client that was handed in has")
    return error


async def test_calls_of_all_kinds_end_when_the_client_gives_up_and_fail_at_once_from_then_on(world: World) -> None:
    caller = world.caller
    held = asyncio.ensure_future(caller.send(Hold()))
    await world.held.wait()
    world.server.kill()
    await eventually(lambda: caller.health == "degraded")
    waiting = asyncio.ensure_future(caller.send(Ask()))
    assert (await failed(held)).execution is Execution.MAYBE
    assert (await failed(waiting)).execution is Execution.NO
    assert (await failed(asyncio.ensure_future(caller.send(Ask())))).execution is Execution.NO
    assert (await failed(asyncio.ensure_future(caller.send_to_node(Ask(), "worker")))).execution is Execution.NO
    assert (await failed(asyncio.ensure_future(caller.publish(Told())))).execution is Execution.NO


async def test_what_the_node_can_serve_itself_it_serves_without_its_client(world: World) -> None:
    world.server.kill()
    await eventually(lambda: "for good" in (world.caller.not_ready or ""))
    assert (await world.caller.send(Here())).is_success


async def test_a_client_that_its_owner_closes_is_told_as_such() -> None:
    with NatsServer() as server:
        async with given(server.url) as client, node(server.url, "a", client=client, connect_timeout=JOIN) as a:
            await client.close()
            await eventually(lambda: (a.not_ready or "").endswith("has closed: by its owner"))


def forbidding(subject: str) -> str:
    permissions = f'permissions: {{publish: {{deny: ["{subject}"]}}}}'
    return f"authorization {{ users = [{{user: u, password: s, {permissions}}}] }}"


async def test_what_the_server_refuses_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    with NatsServer(config=forbidding("none")) as server:
        async with given(server.url, user="u", password="s") as client, node(server.url, "a", client=client) as a:
            server.reload(forbidding("catga.nodes.>"))
            await eventually(lambda: update_is_refused(a))
            assert [r for r in caplog.records if "ermissions" in r.message and r.levelno == logging.ERROR]


async def update_is_refused(node: DistributedMediator) -> bool:
    with suppress(ClusterError):
        await node.update(endpoint="elsewhere")
    await asyncio.sleep(0.2)
    return "permissions violation" in (node.not_ready or "").lower()


async def test_what_the_server_refuses_to_the_owner_of_the_client_is_not_the_nodes_trouble(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with NatsServer(config=forbidding("orders.>")) as server:
        async with given(server.url, user="u", password="s") as client, node(server.url, "a", client=client) as a:
            await client.publish("orders.new", b"")
            await eventually(lambda: any("orders.new" in record.message for record in caplog.records))
            assert a.not_ready is None
