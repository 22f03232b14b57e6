"""Stores whose server refuses, vanishes or hangs, and clients with few connections: a `StoreError` that says why."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import nats
import pytest
from redis.asyncio import BlockingConnectionPool, Redis
from redis.credentials import CredentialProvider

from catga.errors import StoreError
from catga.integrations.nats_stores import NatsDeadLetters, NatsStore
from catga.integrations.redis_stores import RedisDeadLetters, RedisStore
from catga.mediator.behaviors import DeadLetter
from catga.testing import eventually
from catga.testing.servers import NatsServer, RedisServer, free_port

SECRET = "open-sesame"


def letter(number: int) -> DeadLetter:
    return DeadLetter(id=f"{number:020d}", name="n", handler="h", body=b"b", code="c", error="e", failed_at=1.0)


async def _ignore(error: Exception) -> None:
    pass


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[nats.NATS]:
    client = await nats.connect(url, reconnect_time_wait=0.05, error_cb=_ignore)
    try:
        yield client
    finally:
        await client.close()


def _of_default(url: str) -> Any:
    return Redis.from_url(url)


def _of_three(url: str) -> Any:
    return Redis.from_url(url, max_connections=3)


def _of_a_pool_that_waits(url: str) -> Any:
    return Redis.from_pool(BlockingConnectionPool.from_url(url, max_connections=3))


@pytest.mark.parametrize("make", [_of_default, _of_three, _of_a_pool_that_waits])
async def test_more_operations_than_connections_all_succeed(make: Callable[[str], Any]) -> None:
    with RedisServer() as server:
        async with make(server.url) as client:
            store, box = RedisStore(client, timeout=60.0), RedisDeadLetters(client, timeout=60.0)
            puts = [box.put(letter(number)) for number in range(300)]
            adds = [store.add(f"k{number}", b"v", 60.0) for number in range(300)]
            assert await asyncio.gather(*puts, *adds) == [None] * 300 + [True] * 300
            assert len(await box.list(1_000)) == 300


async def test_a_pool_that_others_use_up_is_waited_for_and_then_an_error() -> None:
    with RedisServer() as server:
        async with Redis.from_url(server.url, max_connections=2) as client:
            patient, hasty = RedisStore(client, timeout=60.0), RedisStore(client, timeout=0.2)
            async with client.client() as one, client.client() as two:
                await one.ping()
                await two.ping()
                with pytest.raises(StoreError, match="no connection of the pool was free"):
                    await hasty.put("k", b"v", 60.0)
                given_up = asyncio.ensure_future(patient.put("k", b"v", 60.0))
                waiting = asyncio.ensure_future(patient.put("k", b"v2", 60.0))
                await asyncio.sleep(0.05)
                given_up.cancel()  # which gives on its place
                await asyncio.wait([given_up])
            await waiting
            assert await hasty.get("k") == b"v2"


def test_a_store_serves_one_event_loop_after_another() -> None:
    with RedisServer() as server:
        client = Redis.from_url(server.url, max_connections=2)
        store = RedisStore(client, timeout=30.0)

        async def use() -> list[bool]:
            try:
                return await asyncio.gather(*(store.add(f"k{number}", b"v", 60.0) for number in range(50)))
            finally:
                await client.aclose()

        assert [asyncio.run(use()).count(True) for _ in range(2)] == [50, 0]


async def test_operations_on_a_frozen_server_end_in_time() -> None:
    with RedisServer() as server:
        async with Redis.from_url(server.url) as client:
            store = RedisStore(client, timeout=0.3)
            await store.put("k", b"v", 60.0)
            server.freeze()
            async with asyncio.timeout(4.0):  # redis-py itself may need five to give up a connection that it makes
                failed = await asyncio.gather(*(store.get("k") for _ in range(200)), return_exceptions=True)
            server.thaw()
            assert {type(error) for error in failed} == {StoreError}
            await eventually(lambda: _reads(store))


async def _reads(store: RedisStore | NatsStore) -> bool:
    try:
        return await store.get("k") == b"v"
    except StoreError:
        return False


@asynccontextmanager
async def _refusing(why: str) -> AsyncIterator[Any]:
    """A client whose server refuses to write."""
    password = SECRET if why == "password" else ""
    with RedisServer(password=password) as server:
        url = server.url.replace(SECRET, f"not-{SECRET}")
        if why == "port":
            url = f"redis://:{SECRET}@127.0.0.1:{free_port()}"
        async with Redis.from_url(url) as client:
            if why == "OOM":
                await client.config_set("maxmemory", "1")
            elif why == "READONLY":
                await client.execute_command("REPLICAOF", "127.0.0.1", str(free_port()))  # type: ignore[no-untyped-call]
            elif why == "NOPERM":
                await client.acl_setuser("default", enabled=True, commands=["-eval"])
            yield client


@pytest.mark.parametrize(
    ("why", "told"),
    [
        ("OOM", "maxmemory"),
        ("READONLY", "read only|READONLY"),
        ("NOPERM", "permission"),
        ("password", "invalid username-password"),
        ("port", "connect"),
    ],
)
async def test_a_redis_that_refuses_is_a_store_error_with_the_reason(why: str, told: str) -> None:
    async with _refusing(why) as client:
        store, box = RedisStore(client, timeout=20.0), RedisDeadLetters(client, timeout=20.0)
        for operation in (store.add("k", b"v", 60.0), store.put("k", b"v", 60.0), box.put(letter(1))):
            await _fails(operation, told)


async def _fails(operation: Awaitable[object], told: str) -> None:
    with pytest.raises(StoreError, match=told) as failure:
        await operation
    assert SECRET not in str(failure.value)


async def test_a_provider_of_credentials_that_fails_is_a_store_error(redis_url: str) -> None:
    class Provider(CredentialProvider):
        def get_credentials(self) -> tuple[str, str]:
            raise OSError(f"the vault https://me:{SECRET}@vault/ is sealed")

    async with Redis.from_url(redis_url, credential_provider=Provider()) as client:
        await _fails(RedisStore(client, timeout=20.0).get("k"), "is sealed")


async def test_a_nats_store_of_a_closed_client_is_a_store_error(nats_url: str) -> None:
    async with _connected(nats_url) as client:
        store, box = await NatsStore.open(client, "closed"), await NatsDeadLetters.open(client, "closed-dead")
        await client.close()
        for operation in (store.add("k", b"v", 60.0), store.get("k"), box.put(letter(1)), box.list(1)):
            await _fails(operation, "closed")


async def test_a_bucket_that_was_deleted_is_a_store_error(nats_url: str) -> None:
    async with _connected(nats_url) as client:
        store, box = await NatsStore.open(client, "deleted"), await NatsDeadLetters.open(client, "deleted-dead")
        for bucket in ("deleted", "deleted-dead"):
            await client.jetstream().delete_key_value(bucket)
        for operation in (store.add("k", b"v", 60.0), store.get("k"), box.put(letter(1)), box.get("1"), box.list(1)):
            await _fails(operation, "it is gone|not found")


async def test_a_nats_server_without_jetstream_is_a_store_error() -> None:
    with NatsServer() as server:
        async with _connected(server.url) as client:
            await _fails(NatsStore.open(client), "JetStream")


async def test_a_nats_server_that_is_away_is_a_store_error_without_secrets() -> None:
    with NatsServer(jetstream=True, user="me", password=SECRET) as server:
        async with _connected(server.url) as client:
            store = await NatsStore.open(client, timeout=0.5)
            await store.put("k", b"v", 60.0)
            server.kill()
            results = await asyncio.gather(*(store.get("k") for _ in range(1_000)), return_exceptions=True)
            assert {type(each) for each in results} == {StoreError}
            assert all(SECRET not in str(each) for each in results)
            await asyncio.to_thread(server.restart)
            await eventually(lambda: _reads(store))


async def test_a_thousand_operations_at_once_on_nats_all_succeed(nats_url: str) -> None:
    async with _connected(nats_url) as client:
        store = await NatsStore.open(client, "thousand", timeout=60.0)
        box = await NatsDeadLetters.open(client, "thousand-dead", timeout=60.0)
        adds = [store.add(f"k{number}", b"v" * 10_000, 60.0) for number in range(500)]
        puts = [box.put(letter(number)) for number in range(500)]
        assert await asyncio.gather(*adds, *puts) == [True] * 500 + [None] * 500
        assert len(await box.list(1_000)) == 500


ACCOUNT = """
authorization {
  users = [
    {
      user: orders, password: "secret"
      permissions: {
        publish: [
          "$KV.catga-store.>", "$JS.API.INFO", "$JS.API.STREAM.CREATE.KV_catga-store",
          "$JS.API.STREAM.INFO.KV_catga-store", "$JS.API.STREAM.MSG.GET.KV_catga-store"
        ]
        subscribe: ["_INBOX.>"]
      }
    }
  ]
}
"""


async def _uses(store: RedisStore | NatsStore) -> None:
    assert await store.add("k", b"v", 60.0)
    assert not await store.add("k", b"v2", 60.0)
    await store.discard("k", b"v")
    await store.put("k", b"v", 60.0)
    assert await store.get("k") == b"v"


async def test_a_nats_account_of_a_store_suffices_as_documented() -> None:
    with NatsServer(jetstream=True, config=ACCOUNT) as server:
        async with _connected(f"nats://orders:secret@127.0.0.1:{server.port}") as client:
            await _uses(await NatsStore.open(client))


async def test_a_redis_user_of_a_store_suffices_as_documented() -> None:
    with RedisServer() as server:
        async with Redis.from_url(server.url) as admin:
            commands = "eval time get set del zadd zcard zrange zrem hset hget hmget hdel"
            await admin.acl_setuser(
                "orders",
                enabled=True,
                passwords=[f"+{SECRET}"],
                keys=["catga:store:*", "{catga:dead-letters}:*"],
                commands=[f"+{command}" for command in commands.split()],
            )
        async with Redis.from_url(server.url, username="orders", password=SECRET) as client:
            await _uses(RedisStore(client))
            box = RedisDeadLetters(client, max_letters=1)
            for number in (1, 2):
                await box.put(letter(number))
            assert await box.list(10) == [letter(2)]
            assert await box.get(letter(2).id) == letter(2)
            await box.remove(letter(2).id)
