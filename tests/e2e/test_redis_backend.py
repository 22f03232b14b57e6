"""Redis, on a real server: what is stored, what is heard, and what happens when things break."""

import asyncio
import json
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from nodes import HELLO, HELLO_LINES, Ear, Log, lines_of, lone_node, members, node, outgoing
from redis.asyncio import Redis
from redis_bed import opened, plain, record

from catga import Mediator, add_cluster, add_redis_cluster
from catga.errors import ClusterError
from catga.node import LeftReason
from catga.testing.proxy import Proxy
from catga.testing.servers import RedisServer
from catga.testing.waiting import eventually


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A server of the test's own."""
    with RedisServer() as own:
        yield own


# -- what a user sees -------------------------------------------------------------------------------------


async def test_the_hello_program_runs_on_redis_by_its_url(server: RedisServer) -> None:
    assert await lines_of(HELLO, server.url) == HELLO_LINES


async def test_a_plain_client_finds_the_record_its_lease_and_the_news(server: RedisServer) -> None:
    """Key name, JSON fields, TTL between 90 and 120 s after a heartbeat, messages on join, update and leave, key
    gone after exit."""
    async with plain(server.url) as client, client.pubsub() as channel:
        await channel.subscribe("catga:changes")
        news: list[dict[str, object]] = []

        async def heard(fact: str) -> bool:
            message = await channel.get_message(ignore_subscribe_messages=True, timeout=0.1)
            if message is not None:
                news.append(json.loads(message["data"]))
            return any(fact in item for item in news)

        async with add_cluster(
            Mediator(), server.url, node_id="alpha", endpoint="http://a", metadata={"zone": "x"}, heartbeat_interval=0.1
        ) as alpha:
            assert await client.keys("catga:nodes:*") == [b"catga:nodes:alpha"]
            stored = json.loads(await client.get("catga:nodes:alpha") or b"")
            assert stored | {"incarnation": 0} == {
                "node_id": "alpha",
                "endpoint": "http://a",
                "service": "default",
                "load": stored["load"],
                "metadata": {"zone": "x"},
                "handles": [],
                "incarnation": 0,
                "sequence": 0,
                "state": "alive",
            }
            await eventually(lambda: heard("node_id"))
            await client.expire("catga:nodes:alpha", 50)

            async def refreshed() -> bool:
                return 90 < await client.ttl("catga:nodes:alpha") <= 120

            await eventually(refreshed, what="a heartbeat")
            news.clear()
            await alpha.update(metadata={"zone": "y"})
            await eventually(lambda: heard("node_id"))
            assert news[-1]["metadata"] == {"zone": "y"}
        await eventually(lambda: heard("left"))
        assert news[-1] == {"left": "alpha", "incarnation": stored["incarnation"], "reason": "drained"}
        assert await client.exists("catga:nodes:alpha", "catga:nodes") == 0


@pytest.mark.usefixtures("settled_soon")
async def test_a_killed_process_is_left_once_for_every_watcher_without_notifications(server: RedisServer) -> None:
    """With ``notify-keyspace-events ""`` and 10,000 unrelated keys with TTLs."""
    async with plain(server.url) as client:
        await client.config_set("notify-keyspace-events", "")
        async with client.pipeline(transaction=False) as pipe:
            for number in range(10_000):
                pipe.set(f"unrelated:{number}", "x", ex=100 + number)
            await pipe.execute()
    async with node(server.url, "alpha") as alpha, node(server.url, "beta") as beta:
        async with lone_node(server.url, "gamma") as gamma:
            logs = [Log(alpha), Log(beta)]
            await eventually(lambda: all(log.of("gamma") == ["joined"] for log in logs))
            gamma.kill()
            await eventually(lambda: all(log.of("gamma") == ["joined", "left"] for log in logs))
        async with node(server.url, "delta"):
            await eventually(lambda: all(log.of("delta") == ["joined"] for log in logs))
        await eventually(lambda: all(log.of("delta") == ["joined", "left"] for log in logs))
        assert [log.of("gamma") for log in logs] == [["joined", "left"]] * 2
        assert {e.reason for log in logs for e in log.events if e.node.node_id == "gamma"} == {None, LeftReason.CRASHED}


async def test_after_a_restart_of_an_empty_server_every_node_is_back_and_nobody_left(server: RedisServer) -> None:
    async with node(server.url, "alpha") as alpha, node(server.url, "beta") as beta:
        logs = [Log(alpha), Log(beta)]
        await eventually(lambda: all(len(log.events) >= 2 for log in logs))
        await asyncio.to_thread(server.kill)
        await eventually(lambda: alpha.health == beta.health == "degraded")
        await asyncio.to_thread(server.restart)

        async with plain(server.url) as client:

            async def stored() -> bool:
                return set(await client.hkeys("catga:nodes")) == {b"alpha", b"beta"}

            await eventually(stored)
        async with node(server.url, "gamma") as gamma:
            assert members(gamma) == ["alpha", "beta", "gamma"]
            await eventually(lambda: members(alpha) == members(beta) == ["alpha", "beta", "gamma"])
        assert [log.of(i) for log in logs for i in ("alpha", "beta")] == [["joined"]] * 4


@pytest.mark.usefixtures("quick_looks")
async def test_a_frozen_server_is_noticed_blocks_nobody_for_ever_and_kills_nobody(server: RedisServer) -> None:
    ear = Ear()
    async with opened(server.url, ear) as backend, node(server.url, "alpha") as alpha, node(server.url, "beta"):
        log = Log(alpha)
        await eventually(lambda: members(alpha) == ["alpha", "beta"])
        await backend.transport.subscribe("s")
        server.freeze()
        with pytest.raises(ClusterError):  # noqa: PT012
            while True:  # the buffers fill up; then the watchdog ends the wait
                if not backend.transport.publish(outgoing("s", bytes(500_000))):
                    await backend.transport.drain()
        await eventually(lambda: ear.links == [False])
        with pytest.raises(ClusterError):
            await backend.discovery.get_nodes()
        server.thaw()
        await eventually(lambda: ear.links == [False, True])
        ear.messages.clear()
        backend.transport.publish(outgoing("s", b"again"))
        await eventually(lambda: b"again" in ear.messages)
        await eventually(lambda: members(alpha) == ["alpha", "beta"])
        assert log.of("alpha") == log.of("beta") == ["joined"]


# -- the transport ----------------------------------------------------------------------------------------


async def test_messages_arrive_whole_and_in_order_and_what_nobody_hears_comes_back(redis_url: str) -> None:
    ear = Ear()
    payloads = [bytes([i % 256]) * (i * 37) for i in range(1, 400)]
    async with opened(redis_url, ear, "order") as backend:
        await backend.transport.subscribe("order.a")
        mixed = [
            m for pair in zip(outgoing("order.a", *payloads), outgoing("order.b", *payloads), strict=True) for m in pair
        ]
        backend.transport.publish(mixed)
        await eventually(lambda: len(ear.messages) == len(ear.undeliverable) == len(payloads))
        assert ear.messages == payloads
        assert ear.undeliverable == [("order.b", token) for token in range(len(payloads))]


async def test_unsubscribe_returns_after_what_came_before_and_then_nobody_listens(redis_url: str) -> None:
    ear = Ear()
    async with opened(redis_url, ear, "unsub") as backend, plain(redis_url) as client:
        await backend.transport.subscribe("unsub.a")
        assert await client.publish("unsub.a", b"before") == 1
        await backend.transport.unsubscribe("unsub.a")
        assert ear.messages == [b"before"]
        assert await client.publish("unsub.a", b"after") == 0


async def test_a_node_has_two_connections_however_many_calls_it_makes(server: RedisServer) -> None:
    async with plain(server.url) as client, opened(server.url) as backend:
        before = len(await client.client_list())
        await backend.discovery.watch(lambda _: None, tuple)
        await asyncio.gather(*(backend.discovery.register(record(f"n{i}")) for i in range(50)))
        for _ in range(50):
            backend.transport.publish(outgoing("s", b"x"))
        assert len(await client.client_list()) == before == 3


async def test_without_a_link_publish_fails_at_once_and_subscriptions_come_back_with_it(server: RedisServer) -> None:
    ear = Ear()
    async with opened(server.url, ear) as backend:
        await backend.transport.subscribe("kept")
        await backend.transport.subscribe("dropped")
        await asyncio.to_thread(server.kill)
        await eventually(lambda: ear.links == [False])
        assert not backend.transport.is_up
        with pytest.raises(ClusterError, match="is down"):
            backend.transport.publish(outgoing("kept", b"lost"))
        with pytest.raises(ClusterError, match="is down"):
            await backend.transport.subscribe("new")
        await backend.transport.unsubscribe("dropped")
        await asyncio.to_thread(server.restart)
        await eventually(lambda: ear.links == [False, True])
        backend.transport.publish(outgoing("kept", b"1") + outgoing("new", b"2") + outgoing("dropped", b"3"))
        await eventually(lambda: ear.messages == [b"1", b"2"] and ear.undeliverable == [("dropped", 0)])


async def test_what_is_subscribed_and_unsubscribed_while_the_link_comes_back_is_so_when_it_is_up(
    server: RedisServer,
) -> None:
    ear = Ear()
    async with Proxy(server.url) as proxy, opened(proxy.url, ear) as backend, plain(server.url) as client:

        async def at_server(channel: str) -> bool:
            return await client.pubsub_channels(channel) != []

        async def not_at_server(channel: str) -> bool:
            return not await at_server(channel)

        await backend.transport.subscribe("old")
        proxy.delay = 0.3  # what the server did is not confirmed yet
        proxy.drop()
        await eventually(lambda: not_at_server("old"))
        await eventually(lambda: at_server("old"))
        await backend.transport.unsubscribe("old")
        await eventually(lambda: not_at_server("old"))
        with suppress(ClusterError):
            await backend.transport.subscribe("new")
        await eventually(lambda: ear.links == [False, True])
        backend.transport.publish(outgoing("old", b"0") + outgoing("new", b"1"))
        await eventually(lambda: ear.messages == [b"1"] and ear.undeliverable == [("old", 0)])


async def test_a_connection_that_the_server_closes_is_replaced(server: RedisServer) -> None:
    ear = Ear()
    async with opened(server.url, ear) as backend, plain(server.url) as client:
        await backend.transport.subscribe("s")
        for kind, links in (("pubsub", 2), ("normal", 4)):
            await client.client_kill_filter(_type=kind, skipme=True)
            await eventually(lambda links=links: len(ear.links) == links)
        backend.transport.publish(outgoing("s", b"x"))
        await eventually(lambda: ear.messages == [b"x"])
        assert ear.links == [False, True, False, True]


# -- connecting -------------------------------------------------------------------------------------------


async def test_a_wrong_password_is_an_error_at_once_that_does_not_show_it() -> None:
    with RedisServer(password="right") as server:
        async with asyncio.timeout(10):
            with pytest.raises(ClusterError, match=r"\*\*\*@.* refused the credentials") as caught:
                await node(server.url.replace("right", "wrong"), "alpha", connect_timeout=1000).start()
            assert "wrong" not in str(caught.value)
            with pytest.raises(ClusterError, match="refused the credentials"):
                await node(server.url.replace(":right@", ""), "alpha", connect_timeout=1000).start()
        async with add_redis_cluster(
            Mediator(), server.url.replace(":right@", ""), password="right", node_id="a"
        ) as right:
            assert members(right) == ["a"]


async def test_an_absent_server_is_waited_for_and_then_an_error_that_names_it(server: RedisServer) -> None:
    await asyncio.to_thread(server.kill)
    with pytest.raises(ClusterError, match=f"{server.port} could not be reached"):
        await node(server.url, "alpha", connect_timeout=0.3).start()
    alpha = node(server.url, "alpha", connect_timeout=60)
    waiting = asyncio.create_task(alpha.start())
    await asyncio.to_thread(server.restart)
    await waiting
    await alpha.stop()


async def test_a_silent_server_is_an_error_within_the_connect_timeout(server: RedisServer) -> None:
    server.freeze()
    async with asyncio.timeout(15):
        with pytest.raises(ClusterError, match="could not be reached"):
            await node(server.url, "alpha", connect_timeout=0.5).start()


async def test_a_ready_made_client_lends_its_settings_and_stays_open(server: RedisServer) -> None:
    async with Redis(host="127.0.0.1", port=server.port, decode_responses=True, max_connections=1) as client:
        async with add_redis_cluster(Mediator(), client=client, node_id="alpha"):
            assert await client.hkeys("catga:nodes") == ["alpha"]
        assert await client.ping()


@asynccontextmanager
async def tls_in_front(port: int, cert: Path, key: Path) -> AsyncIterator[int]:
    """A TLS terminator before a server that speaks none (the wheel's does not); yields its port."""

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pipe(reader, behind[1]), pipe(behind[0], writer), return_exceptions=True)

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as listening:
        yield listening.sockets[0].getsockname()[1]


def certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=catga"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")
async def test_tls_with_a_private_authority_connects_and_verifies(server: RedisServer, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    async with tls_in_front(server.port, cert, key) as port:
        url = f"rediss://127.0.0.1:{port}"
        async with add_redis_cluster(Mediator(), url, ssl_ca_certs=str(cert), node_id="alpha") as alpha:
            assert members(alpha) == ["alpha"]
        with pytest.raises(ClusterError, match="CERTIFICATE_VERIFY_FAILED"):
            await add_redis_cluster(Mediator(), url, node_id="alpha", connect_timeout=0.3).start()


async def test_two_databases_of_one_server_are_two_clusters(server: RedisServer) -> None:
    async with node(f"{server.url}/1", "alpha") as alpha, node(f"{server.url}/2", "beta") as beta:
        async with node(f"{server.url}/1", "gamma"):
            await eventually(lambda: members(alpha) == ["alpha", "gamma"])
        assert members(beta) == ["beta"]
