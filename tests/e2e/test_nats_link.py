"""The NATS link: when the server stops reading, and how payloads are handed over."""

import asyncio
import logging
import random
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import nats
import pytest
from nats.aio.msg import Msg
from nodes import Ear, outgoing

from catga import Mediator, Request, add_cluster
from catga.abc import BackendSettings, NodeDiscovery, Observation, Sighting
from catga.backends.nats import open_backend
from catga.errors import ClusterError
from catga.membership.exchange import decode_view, encode_view
from catga.membership.records import encode_record
from catga.node import NodeInfo
from catga.testing.proxy import Proxy
from catga.testing.servers import NatsServer
from catga.testing.waiting import eventually


class Greet(msgspec.Struct, Request[str], frozen=True):
    name: str


async def test_a_frozen_server_with_a_full_buffer_is_noticed_and_blocks_nobody_for_ever() -> None:
    ear = Ear()
    with NatsServer() as server:
        backend = open_backend(BackendSettings(url=server.url))
        transport = backend.transport
        await transport.start(ear)
        try:
            await transport.subscribe("s")
            server.freeze()
            async with asyncio.timeout(60):
                while transport.publish(outgoing("nobody", bytes(500_000))):
                    pass
                waiting = asyncio.create_task(transport.drain())
                await eventually(lambda: ear.links == [False], 60)
                await asyncio.wait([waiting])
            with pytest.raises(ClusterError):
                transport.publish(outgoing("s", b"lost"))
            server.thaw()
            await eventually(lambda: ear.links == [False, True], 60)
            transport.publish(outgoing("s", b"again"))
            await eventually(lambda: b"again" in ear.messages)
        finally:
            await transport.aclose()
        if not waiting.cancelled() and (error := waiting.exception()) is not None:
            assert isinstance(error, ClusterError)


class Choosy(Ear):
    """Fails at some payloads, and notes in which tasks the others come."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks: set[object] = set()

    def on_message(self, payload: bytes) -> None:
        if payload == b"value":
            raise ValueError("a fault of its own")
        if payload == b"cancelled":
            raise asyncio.CancelledError
        super().on_message(payload)
        self.tasks.add(asyncio.current_task())


@pytest.fixture
async def choosy(nats_url: str) -> AsyncIterator[tuple[Choosy, Any]]:
    ear = Choosy()
    transport = open_backend(BackendSettings(url=nats_url)).transport
    await transport.start(ear)
    yield ear, transport
    await transport.aclose()


async def test_payloads_are_handed_over_where_they_are_read(choosy: tuple[Choosy, Any]) -> None:
    ear, transport = choosy
    await transport.subscribe("direct.s")
    transport.publish(outgoing("direct.s", b"a"))
    await eventually(lambda: ear.messages == [b"a"])
    await asyncio.gather(transport.unsubscribe("direct.s"), transport.subscribe("direct.s"))
    transport.publish(outgoing("direct.s", b"b"))
    await eventually(lambda: ear.messages == [b"a", b"b"])
    assert ear.tasks == {None}


def end(transport: Any, subject: str) -> "asyncio.Task[None]":
    """Have a subscription taken for one that the server has ended. Returns the task that renews what was."""
    listening = transport._subscriptions[subject]
    listening.refused = "taken away"
    transport._connection._renewal.lost(listening)
    mending: asyncio.Task[None] = transport._connection._renewal._mending
    return mending


async def test_a_renewed_subscription_takes_the_place_of_the_former_one(choosy: tuple[Choosy, Any]) -> None:
    """Should the server still have that, it would count as a listener when nobody listens any more."""
    ear, transport = choosy
    await transport.subscribe("renewed.s")
    await end(transport, "renewed.s")
    assert ear.links == [False, True]
    transport.publish(outgoing("renewed.s", b"a"))
    await eventually(lambda: ear.messages == [b"a"])
    await transport.unsubscribe("renewed.s")
    transport.publish(outgoing("renewed.s", b"b"))
    await eventually(lambda: ear.undeliverable == [("renewed.s", 0)])


async def test_a_subscription_given_up_while_its_renewal_waits_is_not_renewed(choosy: tuple[Choosy, Any]) -> None:
    ear, transport = choosy
    await transport.subscribe("given-up.s")
    mending = end(transport, "given-up.s")
    await asyncio.sleep(0)  # it waits
    await transport.unsubscribe("given-up.s")
    await mending
    transport.publish(outgoing("given-up.s", b"a"))
    await eventually(lambda: ear.undeliverable == [("given-up.s", 0)])
    assert ear.messages == []
    assert ear.links == [False, True]


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
async def test_messages_that_come_in_pieces_are_put_together(chunk: int, nats_url: str) -> None:
    ear, plain, dice = Ear(), list[bytes](), random.Random(chunk)
    client = await nats.connect(nats_url)
    async with Proxy(nats_url) as proxy:
        backend = open_backend(BackendSettings(url=proxy.url))
        transport: Any = backend.transport
        await transport.start(ear)
        await transport.subscribe(f"pieces.{chunk}")

        async def on_message(message: Msg) -> None:
            plain.append(message.data)

        await transport._connection.subscribe(f"plain.{chunk}", on_message)
        proxy.chunk = chunk
        direct, queued, headed = list[bytes](), list[bytes](), list[bytes]()
        for number in range(200):
            trap = dice.choice([b"", b"\r\n", f"\r\nMSG pieces.{chunk} 2 3\r\nabc\r\n".encode(), b"x" * 300])
            payload = b"%d" % number + trap
            match dice.randrange(4):
                case 0:
                    queued.append(payload)
                    await client.publish(f"plain.{chunk}", payload)
                case 1:
                    headed.append(b"h" + payload)
                    await client.publish(f"pieces.{chunk}", b"h" + payload, headers={"some": "thing"})
                case _:
                    direct.append(payload)
                    await client.publish(f"pieces.{chunk}", payload)
        await client.flush()
        await eventually(lambda: len(ear.messages) + len(plain) == 200, 60)
        assert [payload for payload in ear.messages if payload[:1] != b"h"] == direct
        assert [payload for payload in ear.messages if payload[:1] == b"h"] == headed
        assert plain == queued
        await transport.aclose()
    await client.close()


async def test_a_listener_that_fails_does_not_end_the_reading(
    choosy: tuple[Choosy, Any], caplog: pytest.LogCaptureFixture
) -> None:
    ear, transport = choosy
    await transport.subscribe("fails.s")
    with caplog.at_level(logging.CRITICAL, "catga.backends.nats"):
        for payload in (b"value", b"cancelled", b"fine"):
            transport.publish(outgoing("fails.s", payload))
        await eventually(lambda: ear.messages == [b"fine"])
    assert ear.links == []


async def test_payloads_with_headers_arrive_too(choosy: tuple[Choosy, Any], nats_url: str) -> None:
    ear, transport = choosy
    await transport.subscribe("headers.s")
    client = await nats.connect(nats_url)
    await client.publish("headers.s", b"with", headers={"some": "thing"})
    await client.close()
    await eventually(lambda: ear.messages == [b"with"])


async def test_a_client_that_was_handed_in_serves_as_well(nats_url: str) -> None:
    ear = Ear()
    client = await nats.connect(nats_url)
    transport = open_backend(BackendSettings(url=nats_url, options={"client": client})).transport
    await transport.start(ear)
    await transport.subscribe("given.s")
    transport.publish(outgoing("given.s", b"a"))
    await eventually(lambda: ear.messages == [b"a"])
    await transport.aclose()
    assert client.is_connected
    await client.close()


async def test_a_client_that_was_handed_in_and_was_gone_for_a_moment_only_has_lost_its_link(nats_url: str) -> None:
    client: Any = await nats.connect(nats_url, reconnect_time_wait=0)
    ear = Ear()
    transport = open_backend(BackendSettings(url=nats_url, options={"client": client})).transport
    await transport.start(ear)
    for number in range(1, 4):
        client._transport._io_writer.transport.abort()
        await eventually(lambda number=number: ear.links == [False, True] * number)
    await transport.aclose()
    await client.close()


@pytest.mark.parametrize("given", [False, True], ids=["own", "handed in"])
async def test_whoever_gives_up_waiting_leaves_the_client_reading(given: bool, nats_url: str) -> None:
    client = await nats.connect(nats_url)
    got, prefix = list[Observation](), f"given-up-{given}"
    options = {"client": client} if given else {}
    discovery = open_backend(BackendSettings(url=nats_url, prefix=prefix, options=options)).discovery
    await discovery.watch(got.append, tuple)
    for operation in (discovery.get_nodes, lambda: discovery.register(NodeInfo(node_id="b", incarnation=1))):
        for turns in range(40):  # of the event loop: at whatever it waits for
            waiting = asyncio.ensure_future(operation())
            for _ in range(turns):
                await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
    async with await nats.connect(nats_url) as other:
        last = NodeInfo(node_id="last", incarnation=1)
        await other.publish(f"{prefix}.nodes.last", encode_record(last))
        await eventually(lambda: Sighting(last) in got)
    await discovery.aclose()
    await client.close()


async def test_whoever_gives_up_subscribing_does_not_count_as_a_listener(nats_url: str) -> None:
    """Not even for as long as a client that was handed in stays connected."""
    client = await nats.connect(nats_url)
    transport = open_backend(BackendSettings(url=nats_url, options={"client": client})).transport
    ear = Ear()
    await transport.start(ear)
    for turns in range(40):  # of the event loop: at whatever it waits for
        subscribing = asyncio.ensure_future(transport.subscribe(f"up.{turns}"))
        for _ in range(turns):
            await asyncio.sleep(0)
        subscribing.cancel()
        await asyncio.wait([subscribing])
        if not subscribing.cancelled():  # it was quicker
            await transport.unsubscribe(f"up.{turns}")
        transport.publish(outgoing(f"up.{turns}", b""))
    await eventually(lambda: [subject for subject, _ in ear.undeliverable] == [f"up.{i}" for i in range(40)])
    await transport.aclose()
    await client.close()


async def test_an_answer_that_is_late_leaves_a_client_that_was_handed_in_reading() -> None:
    with NatsServer() as server:
        client = await nats.connect(server.url)
        settings = BackendSettings(url=server.url, connect_timeout=1.0, options={"client": client})
        transport: Any = open_backend(settings).transport
        ear = Ear()
        await transport.start(ear)
        await transport.subscribe("late.s")
        server.freeze()
        with pytest.raises(ClusterError):
            await transport.subscribe("late.t")
        server.thaw()
        transport.publish(outgoing("late.s", b"heard"))
        await eventually(lambda: ear.messages == [b"heard"])
        await transport.aclose()
        await client.close()


async def test_an_answer_about_the_view_knows_what_was_announced_before_the_question(nats_url: str) -> None:
    """Else a joiner would miss a node for which it came too late, and who answers it too early."""
    names = [f"n{number}" for number in range(90)]
    async with discovering(nats_url, "order"), await nats.connect(nats_url) as asking:
        answers = await asking.subscribe("order.reply.*")
        await asking.publish("order.sync", b"", reply="order.reply.first")
        for name in names:  # in one go, with a question behind each
            await asking.publish(f"order.nodes.{name}", encode_record(NodeInfo(node_id=name, incarnation=1)))
            await asking.publish("order.sync", b"", reply=f"order.reply.{name}")
        for count in range(len(names) + 1):
            told, _ = decode_view((await answers.next_msg(30)).data)
            assert {each.node.node_id for each in told if isinstance(each, Sighting)} >= set(names[:count])


async def test_joiners_find_each_other_though_who_should_tell_them_is_frozen(nats_url: str) -> None:
    async with await nats.connect(nats_url) as frozen:
        await frozen.subscribe("frozen.sync", queue="sync")  # takes its share of the questions, and never answers
        await frozen.flush()
        async with discovering(nats_url, "frozen") as first:
            node = NodeInfo(node_id="b", incarnation=1)
            await first.register(node)
            async with discovering(nats_url, "frozen") as late:
                while Sighting(node) not in await late.get_nodes():
                    pass


async def test_an_answer_that_cannot_be_read_is_none_and_another_is_asked(nats_url: str) -> None:
    node = NodeInfo(node_id="b", incarnation=1)
    answers = [b"no view", *encode_view([Sighting(node)], 65536)]
    async with await nats.connect(nats_url) as member:

        async def answer(question: Msg) -> None:
            await question.respond(answers.pop(0))

        await member.subscribe("unreadable.sync", queue="sync", cb=answer)
        await member.flush()
        discovery = open_backend(BackendSettings(url=nats_url, prefix="unreadable")).discovery
        await discovery.watch(lambda _: None, tuple)
        assert await discovery.get_nodes() == [Sighting(node)]
        await discovery.aclose()


async def test_a_member_is_not_told_its_own_view(nats_url: str) -> None:
    async with discovering(nats_url, "lone") as lone:
        await lone.register(NodeInfo(node_id="b", incarnation=1))
        assert await lone.get_nodes() == []


@asynccontextmanager
async def discovering(url: str, prefix: str) -> AsyncIterator[NodeDiscovery]:
    """A discovery that has asked once, and answers with what it has seen."""
    seen: list[Observation] = []
    discovery = open_backend(BackendSettings(url=url, prefix=prefix)).discovery
    await discovery.watch(seen.append, lambda: seen)
    await discovery.get_nodes()
    yield discovery
    await discovery.aclose()


@pytest.mark.parametrize("keys", [None, [b"the signing key of this test"]], ids=["unsigned", "signed"])
async def test_a_node_whose_inbox_the_server_has_lost_subscribes_anew(nats_url: str, keys: list[bytes] | None) -> None:
    """The broker tells it that nobody listens on its own inbox. With keys that may be forged: it looks itself."""
    app, prefix = Mediator(), f"lost-{uuid.uuid4().hex[:8]}"
    app.handles(Greet)(lambda request: f"Hello {request.name}")
    options: Any = {"prefix": prefix, "probe_interval": 0.2, "signing_keys": keys}
    async with (
        add_cluster(app, nats_url, node_id="worker", **options) as worker,
        add_cluster(Mediator(), nats_url, node_id="caller", **options) as caller,
    ):
        connection: Any = worker._node.membership._discovery._connection  # type: ignore[union-attr]
        (inbox,) = [each for each in connection.listenings if each.subject.startswith(f"{prefix}.inbox.")]
        connection.forget(inbox.subscription)
        await connection.flush()
        await eventually(lambda: inbox not in connection.listenings)

        async def is_served() -> bool:
            return (await caller.send(Greet("you"))).is_success

        await eventually(is_served)
        await eventually(lambda: worker.health == "healthy")


async def test_an_opening_given_up_as_it_ends_leaves_no_connection(nats_url: str) -> None:
    """`start` is cancelled in the very turn of the loop in which the connection is there."""
    before: set[asyncio.Task[Any]] = set()
    for given in (False, True):
        client = await nats.connect(nats_url)
        options = {"client": client} if given else {}
        before.clear()
        before.update(asyncio.all_tasks())
        transport: Any = open_backend(BackendSettings(url=nats_url, options=options)).transport
        starting = asyncio.create_task(transport.start(Ear()))
        while (opening := transport._connection._opening) is None or not opening.done():  # noqa: ASYNC110 - turn by turn
            await asyncio.sleep(0)
        assert not starting.done()
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        await eventually(lambda: asyncio.all_tasks() <= before)
        assert client.is_connected
        await client.close()
