"""A node joins although the broker, or the way to it, is lost while it does."""

import asyncio
from collections.abc import Awaitable, Iterator

import pytest
from nodes import members, node

from catga.backends.joining import persist
from catga.backends.nats.client import bounded
from catga.errors import ClusterError
from catga.testing.proxy import Proxy
from catga.testing.servers import NatsServer, RedisServer, Server
from catga.testing.waiting import eventually


@pytest.fixture(params=[NatsServer, RedisServer], ids=["nats", "redis"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with request.param() as own:
        yield own


@pytest.mark.parametrize("step", range(0, 24, 6))
async def test_a_connection_that_is_lost_at_any_step_of_joining_is_made_again(step: int, server: Server) -> None:
    async with node(server.url, "old") as old, Proxy(server.url) as proxy:
        proxy.delay = 0.01
        joining = node(proxy.url, "new")
        start = asyncio.create_task(joining.start())
        await asyncio.sleep(step * proxy.delay)
        proxy.drop()
        await start
        await eventually(lambda: members(old) == members(joining) == ["new", "old"])
        await joining.stop()


@pytest.mark.parametrize("step", [2, 8, 14])
async def test_a_broker_that_restarts_while_a_node_joins_is_waited_for(step: int, server: Server) -> None:
    async with node(server.url, "old") as old, Proxy(server.url) as proxy:
        proxy.delay = 0.02
        joining = node(proxy.url, "new")
        start = asyncio.create_task(joining.start())
        await asyncio.sleep(step * proxy.delay)
        await asyncio.to_thread(server.restart)
        await start
        await eventually(lambda: members(old) == members(joining) == ["new", "old"], 60)
        await joining.stop()


@pytest.mark.long
async def test_a_broker_that_is_frozen_longer_than_a_round_trip_may_take_while_a_node_joins_is_waited_for(
    server: Server,
) -> None:
    async with node(server.url, "old") as old, Proxy(server.url) as proxy:
        proxy.delay = 0.02
        joining = node(proxy.url, "new", connect_timeout=30.0)
        start = asyncio.create_task(joining.start())
        await asyncio.sleep(8 * proxy.delay)
        server.freeze()
        await asyncio.sleep(6.0)
        server.thaw()
        await start
        await eventually(lambda: members(old) == members(joining) == ["new", "old"], 60)
        await joining.stop()


async def test_a_round_trip_without_an_answer_is_made_again_while_a_node_joins() -> None:
    silent: list[Awaitable[object]] = [asyncio.sleep(60)]

    async def step() -> object:
        return await bounded(
            silent.pop() if silent else asyncio.sleep(0, "answered"), "nats://h", "flush", timeout=0.01
        )

    now = asyncio.get_running_loop().time()
    assert await persist(step, lambda: True, now + 30) == "answered"


async def test_a_broker_that_is_lost_for_good_while_a_node_joins_is_told_as_the_cause(server: Server) -> None:
    async with Proxy(server.url) as proxy:
        proxy.delay = 0.02
        start = asyncio.create_task(node(proxy.url, "new", connect_timeout=2.0).start())
        await eventually(lambda: proxy.connections > 0)
        await asyncio.sleep(10 * proxy.delay)
        server.kill()
        with pytest.raises(ClusterError, match=r"127\.0\.0\.1:\d+.*: .*(EOF|empty|onnect|reset)"):
            await start
