"""Subjects that several share, in Redis: nothing stays of a subscription that failed."""

import asyncio

import pytest
from nodes import Ear
from redis.asyncio import Redis
from redis_bed import opened, plain

from catga.errors import ClusterError
from catga.testing.servers import RedisServer
from catga.testing.waiting import eventually


async def traces(client: Redis) -> list[bytes]:
    """The channels that are subscribed to, and the sets that name some."""
    return [*await client.pubsub_channels("q*"), *await client.keys("q*")]


async def test_a_shared_subscription_that_failed_as_the_link_was_down_is_not_there_when_it_is_back() -> None:
    ear = Ear()
    with RedisServer() as server:
        async with opened(server.url, ear) as backend:
            await asyncio.to_thread(server.kill)
            await eventually(lambda: ear.links == [False])
            for _ in range(3):
                with pytest.raises(ClusterError):
                    await backend.transport.subscribe("q", shared=True)
            await asyncio.to_thread(server.restart)
            await eventually(lambda: ear.links == [False, True])
            async with plain(server.url) as client:
                assert await traces(client) == []


@pytest.mark.parametrize("forbidden", ["sadd", "subscribe"])
async def test_nothing_stays_of_a_shared_subscription_that_the_server_forbids(forbidden: str) -> None:
    with RedisServer() as server:
        async with opened(server.url) as backend, plain(server.url) as client:
            await client.execute_command("ACL", "SETUSER", "default", f"-{forbidden}")
            with pytest.raises(ClusterError):
                await backend.transport.subscribe("q", shared=True)
            await client.execute_command("ACL", "SETUSER", "default", "+@all")
            await backend.transport.subscribe("own")
            await backend.discovery.get_nodes()  # behind whatever was still under way
            assert await traces(client) == []


@pytest.mark.parametrize("turns", range(4))
async def test_nothing_stays_of_a_shared_subscription_that_was_cancelled(turns: int) -> None:
    with RedisServer() as server:
        async with opened(server.url) as backend, plain(server.url) as client:
            await client.execute_command("CLIENT", "PAUSE", 60_000, "WRITE")  # it cannot be ready before
            joining = asyncio.create_task(backend.transport.subscribe("q", shared=True))
            for _ in range(turns):
                await asyncio.sleep(0)
            await eventually(lambda: turns < 3 or client.pubsub_channels("q*"))
            joining.cancel()
            with pytest.raises(asyncio.CancelledError):
                await joining
            await client.execute_command("CLIENT", "UNPAUSE")
            await backend.transport.subscribe("own")
            await backend.discovery.get_nodes()  # behind whatever was still under way
            assert await traces(client) == []


async def test_whoever_shares_a_subject_twice_has_one_channel_and_gives_it_up_once(redis_url: str) -> None:
    async with opened(redis_url, prefix="q2") as backend, plain(redis_url) as client:
        await backend.transport.subscribe("q2.shared", shared=True)
        await backend.transport.subscribe("q2.shared", shared=True)
        assert await client.scard("q2.shared") == len(await client.pubsub_channels("q2.shared*")) == 1
        await backend.transport.unsubscribe("q2.shared")
        assert await client.exists("q2.shared") == len(await client.pubsub_channels("q2.shared*")) == 0
