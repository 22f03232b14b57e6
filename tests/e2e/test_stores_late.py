"""What a store's server reads late: claims and values whose senders have given up, and lifetimes to the millisecond."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import nats
import pytest
from redis.asyncio import Redis

from catga.errors import StoreError
from catga.integrations import nats_stores
from catga.integrations.nats_stores import NatsStore
from catga.integrations.redis_stores import RedisStore
from catga.mediator.behaviors import KeyValueStore
from catga.testing import eventually
from catga.testing.servers import NatsServer, RedisServer, Server

TIMEOUT = 0.5
LEASE = 600.0
"""Longer than any test: a key that is free before was freed."""


async def _ignore(error: Exception) -> None:
    pass


@asynccontextmanager
async def _serving(broker: str) -> AsyncIterator[tuple[Server, KeyValueStore, KeyValueStore]]:
    """A server, and two stores with a client each."""
    if broker == "redis":
        with RedisServer() as redis:
            async with Redis.from_url(redis.url) as client, Redis.from_url(redis.url) as other:
                yield redis, RedisStore(client, timeout=TIMEOUT), RedisStore(other, timeout=TIMEOUT)
    else:
        with NatsServer(jetstream=True) as server:
            clients = [await nats.connect(server.url, reconnect_time_wait=0.05, error_cb=_ignore) for _ in "ab"]
            try:
                first, second = [await NatsStore.open(client, timeout=TIMEOUT) for client in clients]
                yield server, first, second
            finally:
                server.thaw()
                for client in clients:
                    await client.close()


@pytest.fixture(params=["redis", "nats"])
async def serving(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Server, KeyValueStore, KeyValueStore]]:
    async with _serving(request.param) as found:
        yield found


async def _adds(store: KeyValueStore, key: str) -> bool:
    try:
        return await store.add(key, b"another", LEASE)
    except StoreError:
        return False


async def test_a_claim_that_a_frozen_server_reads_late_blocks_nobody(
    serving: tuple[Server, KeyValueStore, KeyValueStore],
) -> None:
    server, store, other = serving
    await store.add("warm", b"1", LEASE)
    server.freeze()
    failed = await asyncio.gather(*(store.add(f"k{n}", b"mine", LEASE) for n in range(20)), return_exceptions=True)
    assert {type(error) for error in failed} == {StoreError}
    server.thaw()
    for number in range(20):
        await eventually(lambda number=number: _adds(other, f"k{number}"))  # type: ignore[misc]
    for number in range(20):
        assert await other.get(f"k{number}") == b"another"


async def test_a_claim_whose_caller_was_cancelled_blocks_nobody(
    serving: tuple[Server, KeyValueStore, KeyValueStore],
) -> None:
    server, store, other = serving
    await store.add("warm", b"1", LEASE)
    server.freeze()
    claims = [asyncio.ensure_future(store.add(f"k{n}", b"mine", LEASE)) for n in range(10)]
    await asyncio.sleep(0.05)
    for claim in claims:
        claim.cancel()
    await asyncio.wait(claims)
    assert all(claim.cancelled() for claim in claims)
    server.thaw()
    for number in range(10):
        await eventually(lambda number=number: _adds(other, f"k{number}"))  # type: ignore[misc]


async def test_what_was_added_stays_though_others_failed(
    serving: tuple[Server, KeyValueStore, KeyValueStore],
) -> None:
    server, store, other = serving
    assert await other.add("k", b"theirs", LEASE)
    server.freeze()
    with pytest.raises(StoreError):
        await store.add("k", b"mine", LEASE)
    server.thaw()
    await eventually(lambda: _adds(store, "next"))
    await asyncio.sleep(2 * TIMEOUT)  # the withdrawal of what was never set
    assert await other.get("k") == b"theirs"


async def test_a_claim_that_could_not_be_freed_is_freed_later(
    serving: tuple[Server, KeyValueStore, KeyValueStore],
) -> None:
    server, store, other = serving
    claims = [(f"k{number}", b"mine") for number in range(10)]
    for key, value in claims:
        assert await store.add(key, value, LEASE)
    server.freeze()
    failed = await asyncio.gather(*(store.discard(*claim) for claim in claims), return_exceptions=True)
    assert {type(error) for error in failed} == {StoreError}
    server.thaw()
    for key, _ in claims:
        await eventually(lambda key=key: _adds(other, key))  # type: ignore[misc]


async def test_a_value_that_a_frozen_server_reads_late_is_as_old_as_it_is(
    serving: tuple[Server, KeyValueStore, KeyValueStore],
) -> None:
    server, store, other = serving
    await store.put("warm", b"1", LEASE)
    loop = asyncio.get_running_loop()
    server.freeze()
    sent = loop.time()
    with pytest.raises(StoreError):
        await store.put("k", b"old", 1.0)
    await eventually(lambda: loop.time() > sent + 2.0)
    server.thaw()
    await eventually(lambda: _reads(other, "warm"))
    assert await other.get("k") is None


async def test_the_lifetime_of_a_value_begins_when_it_is_sent(
    serving: tuple[Server, KeyValueStore, KeyValueStore],
) -> None:
    server, store, other = serving
    await store.put("k", b"before", LEASE)
    loop = asyncio.get_running_loop()
    server.freeze()
    sent = loop.time()
    put = asyncio.ensure_future(store.put("k", b"over", 0.1))
    await eventually(lambda: loop.time() > sent + TIMEOUT / 2)
    server.thaw()
    await asyncio.wait([put])
    if put.exception() is None:  # else this machine was too slow for the time-out
        assert await other.get("k") is None


async def _reads(store: KeyValueStore, key: str) -> bool:
    try:
        return await store.get(key) is not None
    except StoreError:
        return False


async def test_a_value_is_never_given_after_its_time(serving: tuple[Server, KeyValueStore, KeyValueStore]) -> None:
    _, store, other = serving
    await store.get("warm")
    await store.put("k", b"value", 1.2)
    stored = time.monotonic()
    while True:
        asked = time.monotonic()
        if await other.get("k") is None:
            break
        assert asked - stored < 1.2 + 0.05  # a get that begins later gives nothing
        await asyncio.sleep(0.01)


@asynccontextmanager
async def _nats_store(url: str, name: str) -> AsyncIterator[tuple[NatsStore, Any]]:
    client = await nats.connect(url)
    try:
        yield await NatsStore.open(client, name), client.jetstream()
    finally:
        await client.close()


async def test_what_is_over_can_be_added_though_the_server_still_has_it(nats_url: str) -> None:
    async with _nats_store(nats_url, "over") as (store, js):
        sent = str(int(time.time() * 1000))
        await js.publish("$KV.over.k", b"old", headers={"Catga-Lifetime": "300", "Catga-Sent": sent})  # for ever
        assert not await store.add("k", b"new", LEASE)
        await eventually(lambda: store.add("k", b"new", LEASE))
        assert await store.get("k") == b"new"


async def test_what_an_older_version_stored_is_read(nats_url: str) -> None:
    async with _nats_store(nats_url, "older") as (store, js):
        await js.publish("$KV.older.k", b"old", msg_ttl=60.0)
        assert await store.get("k") == b"old"
        assert not await store.add("k", b"new", LEASE)
        await store.discard("k", b"old")
        assert await store.add("k", b"new", LEASE)


async def test_a_node_whose_clock_is_wrong_reads_values_for_their_time(
    nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with _nats_store(nats_url, "clocks") as (store, _):
        await store.put("k", b"value", 60.0)
        monkeypatch.setattr(nats_stores, "boottime", lambda: time.monotonic() + 86_400.0)
        async with _nats_store(nats_url, "clocks") as (tomorrow, _):
            assert await tomorrow.get("k") == b"value"
            assert not await tomorrow.add("k", b"mine", 60.0)
            await tomorrow.put("k", b"newer", 60.0)
        monkeypatch.undo()
        assert await store.get("k") == b"newer"


async def test_a_redis_whose_clock_was_set_takes_claims() -> None:
    with RedisServer() as server:
        async with Redis.from_url(server.url) as client:
            store = RedisStore(client, timeout=5.0)
            assert await store.add("a", b"1", LEASE)
            for off in (-1e6, 1e6):
                store._ahead = off
                assert await store.add(f"b{off}", b"1", LEASE)
                store._ahead = off
                await store.put("c", b"1", LEASE)
                assert await store.get("c") == b"1"
