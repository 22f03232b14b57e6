"""Records and their index in Redis, on a real server: what is stored, what is read, and what that costs."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any
from unittest.mock import ANY

import msgspec
import pytest
from nodes import members, node
from redis.asyncio import Redis
from redis_bed import Heard, opened, plain, record

from catga import NodeInfo
from catga.abc import BackendSettings, Departure, NodeDiscovery, Observation, Sighting
from catga.backends.redis import open_backend
from catga.backends.redis.index import tag
from catga.errors import ClusterError
from catga.node import LeftReason
from catga.testing.servers import RedisServer
from catga.testing.waiting import eventually


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A server of the test's own."""
    with RedisServer() as own:
        yield own


def ages(found: Sequence[Observation]) -> dict[str, float]:
    """Of whom a snapshot tells → seconds, rounded to tens."""
    return {each.node.node_id: round(each.age, -1) for each in found if isinstance(each, Sighting)}


# -- what is stored and told ------------------------------------------------------------------------------


async def test_a_snapshot_tells_how_much_of_each_lease_is_used_and_forgets_what_expired(redis_url: str) -> None:
    async with opened(redis_url, prefix="snap") as backend, opened(redis_url, prefix="snap", ttl=20.0) as brief:
        for node_id in ("a", "ex:pired", "Ünï *[?"):
            await backend.discovery.register(record(node_id))
        await brief.discovery.register(record("b"))
        async with plain(redis_url) as client:
            await client.delete("snap:nodes:ex:pired")
            assert ages(await backend.discovery.get_nodes()) == {"a": 0, "b": 100, "Ünï *[?": 0}
            assert set(await client.hkeys("snap:nodes")) == {b"a", b"b", "Ünï *[?".encode()}
        assert ages(await brief.discovery.get_nodes()) == {"a": 0, "b": 0, "Ünï *[?": 0}


async def test_registering_announces_and_a_heartbeat_does_not(redis_url: str) -> None:
    heard = Heard()
    async with opened(redis_url, prefix="beat") as backend, plain(redis_url) as client:
        discovery = await heard.watch(backend)
        await discovery.register(record(sequence=1))
        await client.delete("beat:nodes:alpha", "beat:nodes")
        await discovery.heartbeat(record(sequence=1, load=0.5))
        assert [o.node.load for o in await discovery.get_nodes() if isinstance(o, Sighting)] == [0.5]
        await discovery.unregister(Departure("alpha", 5, LeftReason.DRAINED))
        left = Departure("alpha", 5, LeftReason.DRAINED)
        await eventually(lambda: heard.all == [Sighting(record(sequence=1)), left])


async def test_an_older_life_neither_overwrites_nor_removes_a_newer_one_and_is_told(redis_url: str) -> None:
    old, new = Heard(), Heard()
    async with opened(redis_url, prefix="lives") as one, opened(redis_url, prefix="lives") as two:
        await (await old.watch(one)).register(record(incarnation=5))
        await (await new.watch(two)).register(record(incarnation=6))
        old.all.clear()
        await one.discovery.heartbeat(record(incarnation=5))
        assert [o.node.incarnation for o in old.all if isinstance(o, Sighting)][-1] == 6
        await one.discovery.unregister(Departure("alpha", 5, LeftReason.DRAINED))
        (found,) = await two.discovery.get_nodes()
        assert isinstance(found, Sighting)
        assert found.node == record(incarnation=6)
        await two.discovery.unregister(Departure("alpha", 6, LeftReason.DRAINED))
        assert await two.discovery.get_nodes() == []


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b'{"node_id": 1}',
        b"[" * 50_000,
        b'{"node_id": "else"}',
        b'{"node_id": "alpha", "incarnation": 1e300, "sequence": 1e300}',
        b'{"node_id": "alpha", "incarnation": 9007199254740993}',
    ],
)
async def test_hostile_records_are_ignored_counted_logged_once_and_overwritten(
    redis_url: str, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    heard = Heard()
    async with opened(redis_url, prefix="evil") as backend, plain(redis_url) as client:
        await client.delete("evil:nodes", "evil:nodes:alpha", "evil:nodes:list")
        discovery = await heard.watch(backend)
        await client.set("evil:nodes:alpha", garbage)
        await client.lpush("evil:nodes:list", "x")
        for node_id in ("alpha", "list", b"\xff"):
            await client.hset("evil:nodes", node_id, f"{tag(record())} 9999999999999")
        assert await discovery.get_nodes() == []
        assert await discovery.get_nodes() == []
        assert discovery.ignored == 2
        await client.publish("evil:changes", b'{"left": 7}')
        await discovery.register(record())
        await eventually(lambda: heard.all == [Sighting(record())])
        assert [o.node for o in await discovery.get_nodes() if isinstance(o, Sighting)] == [record()]
        assert len([r for r in caplog.records if "ignored" in r.message]) == 1


@pytest.mark.parametrize("incarnation", ["nan", "1e400", "1e300", "9007199254740991"])
async def test_a_record_of_an_impossible_life_is_removed_and_overwritten(redis_url: str, incarnation: str) -> None:
    async with opened(redis_url, prefix="life") as backend, plain(redis_url) as client:
        foreign = f'{{"node_id": "alpha", "incarnation": {incarnation}, "sequence": 0}}'
        await client.set("life:nodes:alpha", foreign)
        await client.hset("life:nodes", "alpha", "12345678 9999999999999")
        await backend.discovery.unregister(Departure("alpha", 5, LeftReason.CRASHED))
        assert await client.exists("life:nodes:alpha", "life:nodes") == 0
        await client.set("life:nodes:alpha", foreign)
        await backend.discovery.heartbeat(record())
        assert ages(await backend.discovery.get_nodes()) == {"alpha": 0}
        await backend.discovery.unregister(Departure("alpha", 5, LeftReason.DRAINED))


async def test_a_node_whose_key_vanishes_stores_it_again_at_once_if_the_server_tells() -> None:
    with RedisServer(args=["--notify-keyspace-events", "Kgxe"]) as server:
        async with plain(server.url) as client, node(server.url, "alpha"):

            async def stored() -> bool:
                return await client.exists("catga:nodes:alpha") == 1

            for _ in range(3):
                await client.delete("catga:nodes:alpha")
                await eventually(stored)
            await client.pexpire("catga:nodes:alpha", 1)
            await eventually(stored)
        async with plain(server.url) as client:
            assert await client.exists("catga:nodes:alpha") == 0


async def test_a_server_that_forbids_keyspace_channels_is_good_enough(server: RedisServer) -> None:
    async with plain(server.url) as client:
        await client.acl_setuser(
            "catga", enabled=True, passwords=["+pw"], commands=["+@all"], keys=["catga:*"], channels=["catga*"]
        )
        async with node(server.url.replace("redis://", "redis://catga:pw@"), "alpha") as alpha:
            assert members(alpha) == ["alpha"]
            assert await client.exists("catga:nodes:alpha") == 1


async def test_a_server_that_forbids_keyspace_channels_later_on_is_good_enough(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with plain(server.url) as client:
        user = ("ACL", "SETUSER", "catga", "on", ">pw", "+@all", "~catga:*", "resetchannels", "&catga*")
        await client.execute_command(*user, "&__keyspace@0__:*")
        async with node(server.url.replace("redis://", "redis://catga:pw@"), "alpha") as alpha:
            assert await client.pubsub_numsub("__keyspace@0__:catga:nodes:alpha") == [(ANY, 1)]
            await client.execute_command(*user)  # the server disconnects who is subscribed to what is forbidden now
            await eventually(lambda: alpha.health == "degraded")
            await eventually(lambda: alpha.health == "healthy")
            assert "and goes on without" in caplog.text


async def test_that_the_server_forbids_a_channel_that_must_be_is_told_once(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "catga.backends.redis")
    async with plain(server.url) as client:
        user = ("ACL", "SETUSER", "catga", "on", ">pw", "+@all", "~catga:*", "resetchannels", "&catga*")
        await client.execute_command(*user)
        async with node(server.url.replace("redis://", "redis://catga:pw@"), "alpha") as alpha:
            await client.execute_command(*user[:-1], "&catga.reply.*")

            def told() -> list[str]:
                return [r.levelname for r in caplog.records if "messages cannot be exchanged" in r.message]

            await eventually(lambda: len(told()) >= 3)
            assert told().count("WARNING") == 1
            await client.execute_command(*user)
            await eventually(lambda: alpha.health == "healthy")


async def test_thousands_that_register_at_once_are_all_in_one_snapshot_and_leave_it_at_once(redis_url: str) -> None:
    async with opened(redis_url, prefix="many") as backend, plain(redis_url) as client:
        await asyncio.gather(*(backend.discovery.register(record(f"n{i}")) for i in range(2500)))
        assert len(await backend.discovery.get_nodes()) == 2500
        await client.delete(*(f"many:nodes:n{i}" for i in range(2500)))
        assert await backend.discovery.get_nodes() == []
        assert await client.hlen("many:nodes") == 0


# -- who knows the most part is told the rest -------------------------------------------------------------


async def commands(client: Redis) -> Counter[str]:
    """What the server has run so far, in scripts or not, without what watches links and counts."""
    stats = await client.info("commandstats")
    calls = Counter({name.removeprefix("cmdstat_"): told["calls"] for name, told in stats.items()})
    return Counter({name: count for name, count in calls.items() if name not in ("ping", "hello", "info")})


async def sent(client: Redis) -> int:
    """Bytes that the server has sent so far."""
    count: int = (await client.info("stats"))["total_net_output_bytes"]
    return count


async def stored(discovery: NodeDiscovery, count: int) -> list[NodeInfo]:
    """Records of 2 kB and more, stored."""
    nodes = [msgspec.structs.replace(record(f"n{i:03}"), metadata={"pad": "x" * 2000}) for i in range(count)]
    await asyncio.gather(*map(discovery.heartbeat, nodes))
    return nodes


@pytest.mark.parametrize("count", [3, 300])
async def test_a_read_that_brings_nothing_new_is_three_commands_and_no_records(server: RedisServer, count: int) -> None:
    async with plain(server.url) as client, opened(server.url) as backend:
        nodes = await stored(backend.discovery, count)
        reader = await Heard().watch(backend, nodes)
        before, bytes_before = await commands(client), await sent(client)
        found = await reader.get_nodes()
        assert await sent(client) - bytes_before < 10_000
        assert await commands(client) - before == {"eval": 1, "time": 1, "hgetall": 1}
        assert [o.node for o in found if isinstance(o, Sighting)] == nodes
        assert set(ages(found).values()) == {0}


async def test_a_heartbeat_is_five_commands_and_an_announcement_one_more(server: RedisServer) -> None:
    heartbeat = {"eval": 1, "mget": 1, "time": 1, "hset": 1, "set": 1}
    async with plain(server.url) as client, opened(server.url) as backend:
        await backend.discovery.register(record())
        before = await commands(client)
        await backend.discovery.heartbeat(record())
        assert await commands(client) - before == heartbeat
        before = await commands(client)
        await backend.discovery.register(record(sequence=1))
        assert await commands(client) - before == {**heartbeat, "publish": 1}


async def test_a_read_fetches_what_was_missed_and_only_that(server: RedisServer) -> None:
    async with plain(server.url) as client, opened(server.url) as backend:
        nodes = await stored(backend.discovery, 300)
        reader = await Heard().watch(backend, nodes)
        changed, restarted = record("n000", sequence=1), record("n001", incarnation=6)
        missed = [changed, restarted, record("new")]
        for node in missed:
            await backend.discovery.heartbeat(node)
        before, bytes_before = await commands(client), await sent(client)
        found = await reader.get_nodes()
        assert await sent(client) - bytes_before < 10_000
        assert await commands(client) - before == {"eval": 1, "time": 1, "hgetall": 1, "mget": 1}
        told = [o.node for o in found if isinstance(o, Sighting)]
        assert told[:298] == nodes[2:]
        assert sorted(told[298:], key=lambda node: node.node_id) == missed


async def test_a_load_that_moved_is_no_change(redis_url: str) -> None:
    async with opened(redis_url, prefix="load") as backend:
        await backend.discovery.heartbeat(record(load=0.75))
        reader = await Heard().watch(backend, [record()])
        assert [o.node.load for o in await reader.get_nodes() if isinstance(o, Sighting)] == [0.0]


async def test_who_is_known_is_as_old_as_its_lease_is_used_up(redis_url: str) -> None:
    async with opened(redis_url, prefix="ages") as backend, opened(redis_url, prefix="ages", ttl=20.0) as brief:
        nodes = [record("a"), record("b"), record("absent")]
        await backend.discovery.register(nodes[0])
        await brief.discovery.register(nodes[1])
        reader = await Heard().watch(backend, nodes)
        assert ages(await reader.get_nodes()) == {"a": 0, "b": 100}


async def test_an_observer_reads_everything_each_time(redis_url: str) -> None:
    async with opened(redis_url, prefix="observer") as backend:
        await backend.discovery.register(record())
        await backend.discovery.watch(lambda _: None, None)
        for _ in range(2):
            assert [o.node for o in await backend.discovery.get_nodes() if isinstance(o, Sighting)] == [record()]


@pytest.mark.parametrize("known", [[], [record()]])
async def test_who_expired_is_not_told_and_leaves_the_index(redis_url: str, known: list[NodeInfo]) -> None:
    async with opened(redis_url, prefix="gone", ttl=0.05) as backend, plain(redis_url) as client:
        await backend.discovery.register(record())
        reader = await Heard().watch(backend, known)

        async def empty() -> bool:
            return await reader.get_nodes() == []

        await eventually(empty)
        assert await client.exists("gone:nodes") == 0


async def test_a_server_that_takes_no_writes_now_is_read(server: RedisServer) -> None:
    async with opened(server.url) as backend, plain(server.url) as client:
        await backend.discovery.register(record())
        await client.hset("catga:nodes", "gone", "12345678 1")
        await client.config_set("min-replicas-to-write", 1)
        assert ages(await backend.discovery.get_nodes()) == {"alpha": 0}
        await client.config_set("min-replicas-to-write", 0)
        assert ages(await backend.discovery.get_nodes()) == {"alpha": 0}
        assert await client.hkeys("catga:nodes") == [b"alpha"]


async def test_a_node_that_lost_its_place_in_the_index_registers_again(server: RedisServer) -> None:
    heard = Heard()
    async with plain(server.url) as client, opened(server.url) as backend:
        await heard.watch(backend)
        async with node(server.url, "alpha", ttl=4.0, heartbeat_interval=3.9) as alpha:
            await eventually(lambda: heard.all)
            heard.all.clear()
            await client.hdel("catga:nodes", "alpha")
            await eventually(lambda: heard.all)  # a heartbeat would announce nothing
            assert ages(await backend.discovery.get_nodes()) == {"alpha": 120}
            assert members(alpha) == ["alpha"]


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\xff",
        b" ",
        b"12345678",
        b"12345678 ",
        b"12345678 nan",
        b"12345678 inf",
        b"12345678 -5",
        b"12345678 0x7fffffffffff",
        b"\0\0\0\0\0\0\0\0",
        b"12345678 9" * 9999,
        b"%s%s%s%s%s%s%s%s",
    ],
)
async def test_a_hostile_value_in_the_index_hides_nobody_and_is_counted(redis_url: str, garbage: bytes) -> None:
    async with opened(redis_url, prefix="value") as backend, plain(redis_url) as client:
        await client.delete("value:nodes")
        reader = await Heard().watch(backend, [record()])
        await reader.register(record())
        await client.hset("value:nodes", "alpha", garbage)
        await client.hset("value:nodes", "no record", garbage)
        assert ages(await reader.get_nodes()) == {"alpha": 120}
        assert reader.ignored == 1
        assert await client.hkeys("value:nodes") == [b"alpha"]
        await reader.heartbeat(record())
        assert ages(await reader.get_nodes()) == {"alpha": 0}


async def test_a_lease_without_end_and_a_stolen_tag_bring_in_nobody(redis_url: str) -> None:
    async with opened(redis_url, prefix="stolen") as backend, plain(redis_url) as client:
        reader = await Heard().watch(backend, [record()])
        await reader.register(record())
        await client.hset("stolen:nodes", "thief", f"{tag(record())} {'9' * 400}")
        await client.hset("stolen:nodes", "ghost", f"12345678 {'9' * 400}")
        await client.set("stolen:nodes:thief", b"no record")
        assert ages(await reader.get_nodes()) == {"alpha": 0}
        assert set(await client.hkeys("stolen:nodes")) == {b"alpha", b"thief"}


async def test_another_kind_of_key_in_the_place_of_the_index_is_an_error_that_names_it(server: RedisServer) -> None:
    async with plain(server.url) as client:
        await client.sadd("catga:nodes", "alpha")
        with pytest.raises(ClusterError, match="the key 'catga:nodes' is not catga's, or an older version's"):
            await node(server.url, "alpha").start()
        assert await client.keys("*") == [b"catga:nodes"]


def test_a_tag_stands_for_the_version_and_not_for_the_load() -> None:
    same = [record(), record(load=0.5), msgspec.structs.replace(record(), last_seen=7.0)]
    others = [record("5 alpha"), record("alpha", 6), record(sequence=1), record("Ünï\n", 55)]
    assert len({tag(each) for each in same}) == 1
    assert len({tag(each) for each in [*same, *others]}) == 5
    assert {len(tag(each).encode()) for each in others} == {8}


async def test_a_stop_that_is_given_up_as_it_unsubscribes_leaves_no_connection(redis_url: str) -> None:
    """Whoever leaves once more finds nothing to do."""
    before = asyncio.all_tasks()
    discovery: Any = open_backend(BackendSettings(url=redis_url)).discovery
    await discovery.watch(lambda _: None, None)
    leaving = asyncio.create_task(discovery.aclose())
    await asyncio.sleep(0)
    assert not leaving.done()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    await discovery.aclose()
    await eventually(lambda: asyncio.all_tasks() <= before)
