"""NATS with ``discovery="kv"``, on a real server: what is stored, what is heard, and what happens when things break."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.js.errors import KeyNotFoundError
from nats.js.kv import KeyValue
from nodes import HELLO_LINES, Ear, Log, lines_of, lone_node, members, node

from catga import Mediator, NodeInfo, add_nats_cluster
from catga.abc import Backend, BackendSettings, Departure, Observation, Sighting
from catga.backends.nats import open_backend
from catga.backends.nats.kv import NatsKvNodeDiscovery, bucket_name
from catga.errors import ClusterError
from catga.node import LeftReason
from catga.testing.servers import NatsServer
from catga.testing.waiting import eventually


@pytest.fixture
def server() -> Iterator[NatsServer]:
    """A server of the test's own."""
    with NatsServer(jetstream=True) as own:
        yield own


@asynccontextmanager
async def plain(url: str) -> AsyncIterator[Client]:
    client = await nats.connect(url)
    try:
        yield client
    finally:
        await client.close()


async def bucket(client: Client, prefix: str = "catga") -> KeyValue:
    return await client.jetstream().key_value(bucket_name(prefix))


@asynccontextmanager
async def opened(url: str, prefix: str, ttl: float = 120.0) -> AsyncIterator[tuple[Backend, list[Observation]]]:
    """A backend, and what its discovery observes."""
    backend = open_backend(BackendSettings(url=url, prefix=prefix, ttl=ttl, options={"discovery": "kv"}))
    heard: list[Observation] = []
    await backend.transport.start(Ear())
    try:
        await backend.discovery.watch(heard.append, tuple)
        yield backend, heard
    finally:
        await backend.discovery.aclose()
        await backend.transport.aclose()


def record(node_id: str = "alpha", incarnation: int = 5, sequence: int = 0, load: float = 0.0) -> NodeInfo:
    return NodeInfo(node_id=node_id, incarnation=incarnation, sequence=sequence, load=load)


def kv(url: str, node_id: str, **options: Any) -> Any:
    return node(url, node_id, discovery="kv", **options)


# -- what a user sees -------------------------------------------------------------------------------------


async def test_the_hello_program_runs_on_a_bucket(nats_url: str, tmp_path: Path) -> None:
    source = (Path(__file__).parent.parent.parent / "examples" / "hello" / "hello.py").read_text()
    script = tmp_path / "hello.py"
    script.write_text(source.replace("node_id=node_id)", "node_id=node_id, discovery='kv', prefix='hello')"))
    assert await lines_of(script, nats_url) == HELLO_LINES


async def test_a_plain_client_finds_the_record_its_lease_and_the_end(nats_url: str) -> None:
    async with plain(nats_url) as client:
        async with add_nats_cluster(
            Mediator(), nats_url, discovery="kv", node_id="be ta", endpoint="http://b", prefix="facts"
        ) as beta:
            values = await bucket(client, "facts")
            entry = await values.get("be=20ta")
            stored = json.loads(entry.value or b"")
            assert (stored["node_id"], stored["endpoint"], stored["state"]) == ("be ta", "http://b", "alive")
            message = await client.jetstream().get_last_msg("KV_facts_nodes", "$KV.facts_nodes.be=20ta")
            assert (message.headers or {})["Nats-TTL"] == "120s"
            assert members(beta) == ["be ta"]
        with pytest.raises(KeyNotFoundError):
            await values.get("be=20ta")


@pytest.mark.usefixtures("settled_soon")
async def test_a_killed_process_is_left_once_for_every_watcher(nats_url: str) -> None:
    async with kv(nats_url, "alpha", prefix="killed") as alpha, kv(nats_url, "beta", prefix="killed") as beta:
        async with lone_node(nats_url, "gamma", "discovery=kv", "prefix=killed") as gamma:
            logs = [Log(alpha), Log(beta)]
            await eventually(lambda: all(log.of("gamma") == ["joined"] for log in logs))
            gamma.kill()
            await eventually(lambda: all(log.of("gamma") == ["joined", "left"] for log in logs))
        async with kv(nats_url, "delta", prefix="killed") as delta:
            assert members(delta) == ["alpha", "beta", "delta"]
            await eventually(lambda: all(log.of("delta") == ["joined"] for log in logs))
        await eventually(lambda: all(log.of("delta") == ["joined", "left"] for log in logs))
        assert [log.of("gamma") for log in logs] == [["joined", "left"]] * 2


async def test_after_a_restart_of_an_empty_server_every_node_is_back_and_nobody_left(server: NatsServer) -> None:
    async with kv(server.url, "alpha") as alpha, kv(server.url, "beta") as beta:
        logs = [Log(alpha), Log(beta)]
        await eventually(lambda: all(len(log.events) >= 2 for log in logs))
        await asyncio.to_thread(server.kill)
        await eventually(lambda: alpha.health == beta.health == "degraded")
        await asyncio.to_thread(server.restart)  # the bucket was in memory
        async with plain(server.url) as client:

            async def stored() -> bool:
                try:
                    return sorted(await (await bucket(client)).keys()) == ["alpha", "beta"]
                except nats.js.errors.Error:
                    return False

            await eventually(stored)
        async with kv(server.url, "gamma") as gamma:
            assert members(gamma) == ["alpha", "beta", "gamma"]
            await eventually(lambda: members(alpha) == members(beta) == ["alpha", "beta", "gamma"])
        assert [log.of(i) for log in logs for i in ("alpha", "beta")] == [["joined"]] * 4


async def test_a_deleted_bucket_is_made_anew_and_the_watchers_still_hear(nats_url: str) -> None:
    options = {"prefix": "deleted", "heartbeat_interval": 0.2}
    async with kv(nats_url, "alpha", **options) as alpha, kv(nats_url, "beta", **options), plain(nats_url) as client:
        log = Log(alpha)
        await client.jetstream().delete_key_value("deleted_nodes")

        async def stored() -> bool:
            try:
                return sorted(await (await bucket(client, "deleted")).keys()) == ["alpha", "beta"]
            except nats.js.errors.Error:
                return False

        await eventually(stored)
        async with kv(nats_url, "gamma", **options) as gamma:
            assert members(gamma) == ["alpha", "beta", "gamma"]
            await eventually(lambda: log.of("gamma") == ["joined"])
        assert log.of("beta") == ["joined"]


async def test_a_server_without_jetstream_is_an_error_that_states_the_fix() -> None:
    fix = "start nats-server with -js, or use discovery='pubsub'"
    with NatsServer() as server, pytest.raises(ClusterError, match=fix):
        await kv(server.url, "alpha").start()


async def test_a_bucket_of_somebody_else_is_an_error_and_left_alone(nats_url: str) -> None:
    async with plain(nats_url) as client:
        await client.jetstream().create_key_value(bucket="foreign_nodes")
        with pytest.raises(ClusterError, match="foreign_nodes exists, but was not made by catga"):
            await kv(nats_url, "alpha", prefix="foreign").start()


def test_another_discovery_is_refused_at_the_call() -> None:
    with pytest.raises(ValueError, match="'pubsub' or 'kv', got 'gossip'"):
        add_nats_cluster(Mediator(), discovery="gossip")  # type: ignore[typeddict-item]


@pytest.mark.parametrize(("one", "two"), [("a.b", "a_b"), ("a.b", "a_2Eb"), ("a_nodes", "a"), ("ä", "a")])
def test_two_prefixes_never_share_a_bucket(one: str, two: str) -> None:
    assert bucket_name(one) != bucket_name(two)


# -- discovery --------------------------------------------------------------------------------------------


async def test_a_heartbeat_renews_the_lease_and_wakes_nobody(nats_url: str) -> None:
    async with opened(nats_url, "beat", ttl=2) as (backend, heard), plain(nats_url) as client:
        await backend.discovery.register(record())
        first = await (await bucket(client, "beat")).get("alpha")
        await backend.discovery.heartbeat(record(load=0.5))
        second = await (await bucket(client, "beat")).get("alpha")
        assert (second.revision or 0) > (first.revision or 0)
        (found,) = await backend.discovery.get_nodes()
        assert isinstance(found, Sighting)
        assert found.node == record(load=0.5)
        await backend.discovery.register(record(sequence=1))
        assert heard == [Sighting(record()), Sighting(record(sequence=1))]

        async def expired() -> bool:
            return await backend.discovery.get_nodes() == []

        await eventually(expired)
        await backend.discovery.heartbeat(record(sequence=1))
        assert len(await backend.discovery.get_nodes()) == 1


async def test_a_snapshot_tells_the_age_of_each_record_by_the_servers_clock_and_who_left(nats_url: str) -> None:
    async with opened(nats_url, "ages") as (backend, _):
        await backend.discovery.register(record("old"))
        await backend.discovery.unregister(Departure("gone", 3, LeftReason.CRASHED))

        async def aged() -> bool:
            found = {type(o): o for o in await backend.discovery.get_nodes()}
            assert found[Departure] == Departure("gone", 3, LeftReason.CRASHED)
            sighting = found[Sighting]
            return isinstance(sighting, Sighting) and 0.5 < sighting.age < 60

        await eventually(aged)


async def test_an_older_life_neither_overwrites_nor_removes_a_newer_one_and_is_told(nats_url: str) -> None:
    async with opened(nats_url, "lives") as (one, told), opened(nats_url, "lives") as (two, _):
        await one.discovery.register(record(incarnation=5))
        await two.discovery.register(record(incarnation=6))
        await eventually(lambda: len(told) == 2)
        told.clear()
        await one.discovery.heartbeat(record(incarnation=5))
        assert told == [Sighting(record(incarnation=6))]
        await one.discovery.unregister(Departure("alpha", 5, LeftReason.DRAINED))
        assert [o.node.incarnation for o in await two.discovery.get_nodes() if isinstance(o, Sighting)] == [6]
        await two.discovery.unregister(Departure("alpha", 6, LeftReason.DRAINED))
        assert await one.discovery.get_nodes() == [Departure("alpha", 6, LeftReason.DRAINED)]
        await two.discovery.register(record(incarnation=7))
        assert [o.node.incarnation for o in await one.discovery.get_nodes() if isinstance(o, Sighting)] == [7]


async def test_snapshots_have_no_limit_of_a_thousand_nodes(nats_url: str) -> None:
    async with opened(nats_url, "many") as (backend, _):
        for start in range(0, 1200, 100):
            await asyncio.gather(*(backend.discovery.register(record(f"n{i}")) for i in range(start, start + 100)))
        assert len(await backend.discovery.get_nodes()) == 1200


async def test_foreign_values_are_ignored_counted_logged_once_and_overwritten(
    nats_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(nats_url, "evil") as (backend, heard), plain(nats_url) as client:
        values = await bucket(client, "evil")
        for number, garbage in enumerate([b"", b"\xff", b"[]", b'{"node_id": "else"}', b"[" * 50_000]):
            await values.put(f"k{number}", garbage)
        await values.put("alpha", b'{"node_id": "alpha", "incarnation": 1e300}')
        await values.put("deep.key", b"{}")
        await values.delete("k0")
        assert await backend.discovery.get_nodes() == []
        await backend.discovery.register(record())
        await eventually(lambda: heard == [Sighting(record())])
        assert [o.node for o in await backend.discovery.get_nodes() if isinstance(o, Sighting)] == [record()]
        assert isinstance(backend.discovery, NatsKvNodeDiscovery)
        assert backend.discovery.ignored > 10
        assert len([r for r in caplog.records if "ignored" in r.message]) == 1
