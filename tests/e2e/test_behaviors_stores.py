"""The stores behind behaviors: one set of promises, in memory, on Redis and on NATS."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import msgspec
import nats
import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from catga import Event, Mediator, Request, message
from catga.errors import InProgressError, StoreError
from catga.integrations.nats_stores import NatsDeadLetters, NatsStore
from catga.integrations.redis_stores import RedisDeadLetters, RedisStore
from catga.mediator.behaviors import (
    DeadLetter,
    DeadLetters,
    DeadLetterStore,
    Idempotency,
    KeyValueStore,
    MemoryDeadLetters,
    MemoryStore,
)
from catga.testing import eventually
from catga.testing.cluster import memory_cluster
from catga.testing.proxy import Proxy
from catga.testing.servers import NatsServer, RedisServer


@dataclass(frozen=True)
class Happened(Event):
    number: int


ODD_KEY = "idempotency:a b.*>:ключ/1"


@pytest.fixture(params=["memory", "redis", "nats"])
async def stores(request: pytest.FixtureRequest) -> AsyncIterator[tuple[KeyValueStore, DeadLetterStore]]:
    name = f"t{uuid.uuid4().hex[:12]}"
    if request.param == "memory":
        yield MemoryStore(), MemoryDeadLetters()
    elif request.param == "redis":
        async with Redis.from_url(request.getfixturevalue("redis_url")) as client:
            yield RedisStore(client, prefix=name), RedisDeadLetters(client, name=name)
    else:
        connection = await nats.connect(request.getfixturevalue("nats_url"))
        try:
            yield await NatsStore.open(connection, name), await NatsDeadLetters.open(connection, f"{name}-dead")
        finally:
            await connection.close()


@pytest.fixture
def store(stores: tuple[KeyValueStore, DeadLetterStore]) -> KeyValueStore:
    return stores[0]


@pytest.fixture
def letters(stores: tuple[KeyValueStore, DeadLetterStore]) -> DeadLetterStore:
    return stores[1]


async def test_a_value_is_what_was_put(store: KeyValueStore) -> None:
    assert await store.get(ODD_KEY) is None
    await store.put(ODD_KEY, b"\x00\xff", 60.0)
    assert await store.get(ODD_KEY) == b"\x00\xff"
    await store.put(ODD_KEY, b"new", 60.0)
    assert await store.get(ODD_KEY) == b"new"


@pytest.mark.parametrize("key", ["k" * 100_000, "ключ" * 100, "", "a" * 200, "'" * 200])
async def test_a_key_may_be_as_long_as_a_client_makes_it(store: KeyValueStore, key: str) -> None:
    await store.put(key, b"1", 60.0)
    await store.put(key + "k", b"2", 60.0)
    assert (await store.get(key), await store.get(key + "k")) == (b"1", b"2")
    assert not await store.add(key, b"3", 60.0)
    await store.discard(key, b"1")
    assert await store.get(key) is None


async def test_of_many_who_add_one_succeeds(store: KeyValueStore) -> None:
    added = await asyncio.gather(*(store.add("k", str(n).encode(), 60.0) for n in range(10)))
    assert added.count(True) == 1
    assert await store.get("k") == str(added.index(True)).encode()


async def test_discard_deletes_only_the_value_it_names(store: KeyValueStore) -> None:
    await store.add("k", b"mine", 60.0)
    await store.discard("k", b"yours")
    assert await store.get("k") == b"mine"
    await store.discard("k", b"mine")
    assert await store.get("k") is None
    await store.discard("k", b"mine")
    assert await store.add("k", b"next", 60.0)


async def test_a_value_ends_with_its_time_and_can_be_added_again(store: KeyValueStore) -> None:
    await store.put("p", b"1", 1.0)
    assert await store.add("a", b"1", 1.0)

    async def gone() -> bool:
        return await store.get("p") is None and await store.get("a") is None

    async def added() -> bool:  # a little later, where the server took its time to store the first
        return await store.add("a", b"2", 60.0)

    await eventually(gone)
    await eventually(added)
    assert await store.get("a") == b"2"


@message(idempotent=True)
@dataclass(frozen=True)
class Charge(Request[int]):
    order_id: str


async def test_duplicates_on_two_nodes_run_once_between_them(store: KeyValueStore) -> None:
    runs: list[str] = []
    gate = asyncio.Event()

    def worker(name: str) -> Mediator:
        app = Mediator()
        app.behavior(Idempotency(store, key=lambda charge: charge.order_id))

        @app.handler
        async def charge(request: Charge) -> int:
            runs.append(name)
            await gate.wait()
            return len(runs)

        return app

    async with memory_cluster(Mediator(), worker("a"), worker("b")) as (caller, first, second):
        nodes = [first.node_id, second.node_id] * 4
        sends = [asyncio.ensure_future(caller.send_to_node(Charge("o1"), node_id)) for node_id in nodes]
        await eventually(lambda: runs)
        gate.set()
        assert [(await send).unwrap() for send in sends] == [1] * 8
        assert (await caller.send(Charge("o1"))).unwrap() == 1
        assert len(runs) == 1


@pytest.mark.parametrize("resends", [True, False])
async def test_a_claim_whose_reply_redis_could_not_send_blocks_nobody(redis_url: str, resends: bool) -> None:
    runs: list[str] = []
    prefix = f"{uuid.uuid4().hex}:"
    async with Proxy(redis_url) as proxy, Redis.from_url(redis_url) as direct:
        retry = {} if resends else {"retry": Retry(NoBackoff(), 0)}
        async with Redis(host="127.0.0.1", port=proxy.port, **retry) as client:
            await client.ping()
            app = Mediator()
            app.behavior(Idempotency(RedisStore(client, prefix=prefix), key=lambda charge: charge.order_id))

            @app.handler
            def charge(request: Charge) -> int:
                runs.append(request.order_id)
                return 1

            async def is_claimed() -> bool:
                return bool(await direct.keys(f"{prefix}*"))

            proxy.delay = 0.5
            send = asyncio.ensure_future(app.send(Charge("o1")))
            await eventually(is_claimed)
            proxy.drop()
            proxy.delay = 0.0
            assert (await send).is_success is resends
            assert (await app.send(Charge("o1"))).unwrap() == 1
            assert runs == ["o1"]


def letter(number: int, **fields: Any) -> DeadLetter:
    values: dict[str, Any] = {"name": "n", "handler": "h", "body": b"b", "code": "c", "error": "e", "failed_at": 1.0}
    return DeadLetter(id=f"{number:020d}-ff", **{**values, **fields})


async def test_letters_are_listed_oldest_first_replaced_and_removed(letters: DeadLetterStore) -> None:
    assert await letters.list(10) == []
    for number in (3, 1, 2):
        await letters.put(letter(number))
    assert await letters.list(10) == [letter(1), letter(2), letter(3)]
    assert await letters.list(2) == [letter(1), letter(2)]
    await letters.put(letter(2, attempts=2))
    assert await letters.get(letter(2).id) == letter(2, attempts=2)
    await letters.remove(letter(1).id)
    await letters.remove(letter(1).id)
    assert await letters.get(letter(1).id) is None
    assert await letters.list(10) == [letter(2, attempts=2), letter(3)]


async def test_a_letter_of_any_id_is_found_or_not(letters: DeadLetterStore) -> None:
    for letter_id in ("x" * 10_000, "a b.*>", "1"):
        assert await letters.get(letter_id) is None
        odd = msgspec.structs.replace(letter(1), id=letter_id)
        await letters.put(odd)
        assert await letters.get(letter_id) == odd
    assert len(await letters.list(10)) == 3
    await letters.remove("x" * 10_000)
    assert len(await letters.list(10)) == 2


async def test_what_was_deleted_leaves_nothing_on_nats(nats_url: str) -> None:
    name = f"t{uuid.uuid4().hex[:12]}"
    connection = await nats.connect(nats_url)
    store = await NatsStore.open(connection, name)
    letters = await NatsDeadLetters.open(connection, f"{name}-dead")
    for number in range(5):
        assert await store.add(f"k{number}", b"claim", 60.0)
        await store.discard(f"k{number}", b"claim")
        await letters.put(letter(number))
        await letters.remove(letter(number).id)
    assert await letters.list(10) == []
    assert await store.add("k0", b"again", 60.0)

    async def kept(bucket: str) -> int:
        return (await connection.jetstream().stream_info(f"KV_{bucket}")).state.messages

    async def nothing_else() -> bool:
        return (await kept(name), await kept(f"{name}-dead")) == (1, 0)

    await eventually(nothing_else)
    assert await store.get("k0") == b"again"
    await connection.close()


async def test_a_letter_is_replayed_by_one_node_at_a_time(letters: DeadLetterStore) -> None:
    gate, ran, fails = asyncio.Event(), list[str](), [True]

    def shop(name: str, box: DeadLetters) -> Mediator:
        app = Mediator()
        app.behavior(box)

        @app.handler
        async def happened(event: Happened) -> None:
            if fails:
                raise ValueError(event.number)
            ran.append(name)
            await gate.wait()

        return app

    boxes = [DeadLetters(letters), DeadLetters(letters)]
    one, other = shop("one", boxes[0]), shop("other", boxes[1])
    await one.publish(Happened(1))
    (kept,) = await boxes[1].list()
    fails.clear()
    replay = asyncio.ensure_future(boxes[0].replay(one, kept.id))
    await eventually(lambda: ran)
    refused = await boxes[1].replay(other, kept.id)
    assert isinstance(refused.error, InProgressError)  # type: ignore[union-attr]
    assert [letter.id for letter in await boxes[1].list()] == [kept.id]
    gate.set()
    assert (await replay).is_success
    assert ran == ["one"]
    assert await boxes[1].list() == []
    await one.publish(Happened(2))  # a claim that has ended is in nobody's way
    fails.append(True)
    await one.publish(Happened(3))
    (next_one,) = await boxes[1].list()
    fails.clear()
    assert (await boxes[1].replay(other, next_one.id)).is_success


async def test_a_list_of_letters_on_nats_is_never_short(nats_url: str) -> None:
    connection = await nats.connect(nats_url)
    name = f"t{uuid.uuid4().hex[:12]}"
    box = await NatsDeadLetters.open(connection, name)
    for number in range(5):
        await box.put(letter(number))
    readers = [await nats.connect(nats_url) for _ in range(4)]

    async def lengths(reader: Any) -> set[int]:
        mine = await NatsDeadLetters.open(reader, name)
        return {len(await mine.list(10)) for _ in range(100)}

    assert await asyncio.gather(*map(lengths, readers)) == [{5}] * 4
    await box.remove(letter(0).id)  # what is left of it for a second takes no letter's place
    assert await box.list(2) == [letter(1), letter(2)]
    for client in (connection, *readers):
        await client.close()


async def test_full_letter_boxes_drop_the_oldest(redis_url: str) -> None:
    async with Redis.from_url(redis_url) as client:
        for box in (MemoryDeadLetters(max_letters=2), RedisDeadLetters(client, name=uuid.uuid4().hex, max_letters=2)):
            for number in (1, 2, 3):
                await box.put(letter(number))
            assert await box.list(10) == [letter(2), letter(3)]


async def test_a_full_memory_store_drops_what_was_set_first() -> None:
    store = MemoryStore(max_entries=10)
    for number in range(11):
        await store.put(str(number), b"v", 60.0)
    assert await store.get("0") is None
    assert await store.get("10") == b"v"


async def test_a_full_memory_store_keeps_what_was_added_until_its_time_is_over() -> None:
    now = 0.0
    store = MemoryStore(max_entries=10, clock=lambda: now)
    assert await store.add("claim", b"mine", 60.0)
    for number in range(50):
        await store.put(str(number), b"v", 60.0)
    assert await store.get("claim") == b"mine"
    assert await store.get("49") == b"v"
    for number in range(9):
        assert await store.add(f"claim {number}", b"mine", 60.0)
    with pytest.raises(StoreError):
        await store.put("one more", b"v", 60.0)
    await store.put("claim", b"value", 60.0)
    with pytest.raises(StoreError):
        await store.add("next", b"mine", 60.0)
    assert await store.get("claim") == b"value"
    now = 61.0
    assert await store.add("late", b"mine", 60.0)


async def test_a_frozen_redis_is_a_store_error_in_bounded_time() -> None:
    with RedisServer() as server:
        async with Redis.from_url(server.url) as client:
            store = RedisStore(client, timeout=0.2)
            await store.put("k", b"v", 60.0)
            server.freeze()
            with pytest.raises(StoreError):
                await store.get("k")
            server.thaw()
            await eventually(lambda: _reads(store))


async def test_a_killed_nats_is_a_store_error_in_bounded_time() -> None:
    with NatsServer(jetstream=True) as server:
        connection = await nats.connect(server.url, reconnect_time_wait=0.05, error_cb=_ignore)
        store = await NatsStore.open(connection, timeout=0.5)
        await store.put("k", b"v", 60.0)
        server.kill()
        with pytest.raises(StoreError):
            await store.put("k", b"v2", 60.0)
        with pytest.raises(StoreError):
            await store.get("k")
        await asyncio.to_thread(server.restart)
        await eventually(lambda: _reads(store))
        await connection.close()


async def _reads(store: KeyValueStore) -> bool:
    try:
        return await store.get("k") == b"v"
    except StoreError:
        return False


async def _ignore(error: Exception) -> None:
    pass
