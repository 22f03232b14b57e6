"""What strangers on the bus cannot do; TLS and credentials; what signing keeps out, on every backend."""

import asyncio
import ssl
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import nats
import pytest
import trustme
from redis.asyncio import Redis

from catga import DistributedMediator, Mediator, NodeInfo, Request, add_cluster, message
from catga.abc import Departure, Outgoing
from catga.backends.memory import MemoryTransport
from catga.errors import CatgaError, ClusterError, InvalidMessageError
from catga.membership.records import encode_departure, encode_record
from catga.node import LeftReason
from catga.rpc.signing import Signer
from catga.rpc.subjects import inbox
from catga.rpc.wire import VERSION, Batch, Call, Fault, Frame, Ping, Pong, Reply, encode_batch
from catga.testing.servers import NatsServer, RedisServer, Tls
from catga.testing.waiting import eventually

KEYS = [b"the signing key of this test", b"the signing key to come next"]
BACKENDS = ["memory", "nats", "redis"]
Shout = Callable[[str, bytes], Any]


@message(idempotent=True, timeout=20.0, name="security.Echo")
class Echo(msgspec.Struct, Request[int], frozen=True):
    number: int


@message(idempotent=True, timeout=2.0, name="security.Brief")
class Brief(Echo, frozen=True):
    """Waits for its answer for a moment only."""


@message(timeout=20.0, name="security.Slow")
class Slow(msgspec.Struct, Request[int], frozen=True):
    pass


class Bed:
    """A cluster of its own on one backend, and a stranger who can write to its subjects."""

    def __init__(self, url: str, kind: str) -> None:
        self.url = url
        self.kind = kind
        self.prefix = f"security-{uuid.uuid4().hex[:8]}"
        self.stack = AsyncExitStack()
        self.ran = 0
        self.release = asyncio.Event()
        self.shout: Shout

    async def node(self, node_id: str, *, serves: bool = True, **options: Any) -> DistributedMediator:
        app = Mediator()
        if serves:

            @app.handler
            async def echo(request: Echo) -> int:
                self.ran += 1
                return request.number

            app.handles(Brief)(echo)

            @app.handler
            async def slow(request: Slow) -> int:
                await self.release.wait()
                return 1

        options = {"prefix": self.prefix, "probe_interval": 0.2, "drain_timeout": 5.0, **options}
        return await self.stack.enter_async_context(add_cluster(app, self.url, node_id=node_id, **options))

    async def connect(self) -> None:
        enter = self.stack.enter_async_context
        if self.kind == "nats":
            client = await nats.connect(self.url)
            self.stack.push_async_callback(client.close)

            async def shout(subject: str, data: bytes) -> None:
                await client.publish(subject, data)
                await client.flush()
        elif self.kind == "redis":
            redis = await enter(Redis.from_url(self.url))

            async def shout(subject: str, data: bytes) -> None:
                await redis.publish(subject, data)
        else:
            hub = self.url.removeprefix("memory://")
            transport = MemoryTransport(f"{self.prefix}/{hub}")
            await transport.start(Nobody())
            self.stack.push_async_callback(transport.aclose)

            async def shout(subject: str, data: bytes) -> None:
                transport.publish([Outgoing(subject, data, 1)])

        self.shout = shout

    async def announce(self, node_id: str, data: bytes) -> None:
        await self.shout(f"{self.prefix}.nodes.{node_id}" if self.kind == "nats" else f"{self.prefix}:changes", data)

    def inbox_of(self, node: DistributedMediator) -> str:
        return inbox(self.prefix, node.node_id, node.current_node.incarnation)


class Nobody:
    def on_message(self, payload: bytes, /) -> None: ...
    def on_undeliverable(self, subject: str, token: int, /) -> None: ...
    def on_refused(self, subject: str, token: int, reason: str, /) -> None: ...
    def on_doubt(self, subject: str, /) -> None: ...
    def on_link(self, up: bool, /) -> None: ...
    def on_closed(self, reason: str, /) -> None: ...


@asynccontextmanager
async def bed_on(kind: str, request: pytest.FixtureRequest) -> AsyncIterator[Bed]:
    url = f"memory://{uuid.uuid4().hex}" if kind == "memory" else request.getfixturevalue(f"{kind}_url")
    bed = Bed(url, kind)
    async with bed.stack:
        await bed.connect()
        yield bed
        bed.release.set()


@pytest.fixture(params=BACKENDS)
async def bed(request: pytest.FixtureRequest) -> AsyncIterator[Bed]:
    async with bed_on(request.param, request) as bed:
        yield bed


@pytest.fixture(params=["nats", "redis"])
async def brokered(request: pytest.FixtureRequest) -> AsyncIterator[Bed]:
    async with bed_on(request.param, request) as bed:
        yield bed


def batch(bed: Bed, *frames: Frame, node_id: str = "stranger", incarnation: int = 1, reply_to: str = "") -> bytes:
    return encode_batch(
        Batch(VERSION, node_id, incarnation, 0.0, reply_to or f"{bed.prefix}.reply.stranger", list(frames))
    )


def call(number: int) -> Call:
    return Call(number, "security.Echo", 10_000, msgspec.msgpack.encode(Echo(number)))


def known(*nodes: DistributedMediator) -> bool:
    return all(len(node.get_nodes()) == len(nodes) for node in nodes)


# -- signing ------------------------------------------------------------------------------------------


async def test_unsigned_and_wrongly_signed_and_misdirected_and_replayed_batches_are_dropped_and_counted(
    bed: Bed,
) -> None:
    worker = await bed.node("worker", signing_keys=KEYS[:1])
    to, ours, theirs = bed.inbox_of(worker), Signer(KEYS[:1]), Signer([b"a key that nobody else has"])
    good = ours.seal(to, batch(bed, call(1)))
    changed = bytearray(ours.seal(to, batch(bed, call(2))))
    changed[-1] ^= 1
    garbage = worker.counters["garbage"]
    bad = [
        batch(bed, call(3)),
        theirs.seal(to, batch(bed, call(4))),
        ours.seal(f"{to}0", batch(bed, call(5))),
        bytes(changed),
        good[:20],
        b"",
        b"\xc1",
    ]
    for data in bad:
        await bed.shout(to, data)
    await eventually(lambda: worker.counters["garbage"] == garbage + len(bad))
    assert bed.ran == 0
    await bed.shout(to, good)
    await eventually(lambda: bed.ran == 1)
    await bed.shout(to, good)
    await eventually(lambda: worker.counters["garbage"] == garbage + len(bad) + 1)
    assert bed.ran == 1


async def test_keys_change_without_a_lost_request(bed: Bed) -> None:
    """[old] → [old, new] → [new, old] → [new], one node restarted after the other, under load."""
    workers = {n: await bed.node(n, signing_keys=KEYS[:1]) for n in ("w1", "w2")}
    callers = [await bed.node("caller-0", serves=False, signing_keys=KEYS[:1])]
    await eventually(lambda: known(*workers.values(), *callers))
    failed: list[CatgaError] = []
    answered = 0

    async def load() -> None:
        nonlocal answered
        while True:
            result = await callers[-1].send(Echo(1))
            if result.is_success:
                answered += 1
            else:
                failed.append(result.error)
            await asyncio.sleep(0.002)

    loading = asyncio.create_task(load())
    for step, keys in enumerate((KEYS, KEYS[::-1], KEYS[1:]), 1):
        for n in workers:
            await workers[n].stop()
            workers[n] = await bed.node(n, signing_keys=keys)
            await eventually(lambda: known(*workers.values(), callers[-1]))
        former = callers[-1]
        callers.append(await bed.node(f"caller-{step}", serves=False, signing_keys=keys))
        before = answered
        await eventually(lambda before=before: answered > before + 10)  # through the new one
        await former.stop()
        await eventually(lambda: known(*workers.values(), callers[-1]))
    loading.cancel()
    await asyncio.gather(loading, return_exceptions=True)
    assert failed == []


async def test_signed_nodes_neither_see_nor_hear_of_an_unsigned_one(brokered: Bed) -> None:
    bed = brokered
    worker = await bed.node("worker", signing_keys=KEYS[:1])
    caller = await bed.node("caller", serves=False, signing_keys=KEYS[:1])
    incarnation = worker.current_node.incarnation
    await eventually(lambda: known(worker, caller))
    changes: list[str] = []

    async def watch() -> None:
        async for event in caller.watch():
            changes.append(f"{event.type.value} {event.node.node_id}")  # noqa: PERF401 - read while it grows

    watching = asyncio.create_task(watch())
    await bed.announce("fake", encode_record(NodeInfo(node_id="fake", incarnation=5, handles=("security.Echo",))))
    await bed.announce("worker", encode_record(NodeInfo(node_id="worker", incarnation=incarnation + 10**6)))
    await bed.announce("worker", encode_departure(Departure("worker", incarnation, LeftReason.CRASHED)))
    fake = await bed.node("unsigned")
    for number in range(50):
        assert (await caller.send(Echo(number))).metadata.node_id == "worker"
    await bed.node("late", serves=False, signing_keys=KEYS[:1])
    await eventually(lambda: "joined late" in changes)
    watching.cancel()
    assert [change for change in changes if not change.startswith("updated")] == [
        "joined caller",
        "joined worker",
        "joined late",
    ]
    assert worker.current_node.incarnation == incarnation
    assert [node.node_id for node in caller.get_nodes()] == ["caller", "late", "worker"]
    ran = bed.ran
    assert not (await fake.send_to_node(Brief(1), "worker")).is_success
    assert bed.ran == ran


def test_without_keys_nothing_is_signed() -> None:
    cluster = add_cluster(Mediator(), "memory://off")
    assert cluster._options.signer is None


def test_a_record_is_signed_for_one_cluster_and_stays_json() -> None:
    old, both = Signer(KEYS[:1]), Signer(KEYS[::-1])
    record = encode_record(NodeInfo(node_id="a", incarnation=7))
    sealed = old.seal_record("catga", record)
    assert msgspec.json.decode(sealed)["incarnation"] == 7
    assert both.open_record("catga", sealed) == record
    for bad in (record, b"", b"{}", sealed.replace(b"7", b"8", 1), sealed[:-3] + b'0"}', sealed[1:]):
        with pytest.raises(InvalidMessageError):
            both.open_record("catga", bad)
    with pytest.raises(InvalidMessageError):
        old.open_record("other", sealed)
    with pytest.raises(InvalidMessageError):
        old.open_record("catga", both.seal_record("catga", record))


def test_batches_to_two_subjects_are_in_no_order_and_none_is_taken_for_a_replay() -> None:
    """The counter is one for all destinations: batches to others, or to the other subject, make gaps and no replays."""
    sender, receiver = Signer(KEYS), Signer(KEYS)
    first = sender.seal("inbox", b"1")
    for _ in range(5000):
        sender.seal("elsewhere", b"x")
    later = sender.seal("reply", b"2")
    assert receiver.open(("inbox", "reply"), later) == b"2"
    assert receiver.open(("inbox", "reply"), first) == b"1"
    for again in (first, later):
        with pytest.raises(InvalidMessageError, match="replayed"):
            receiver.open(("inbox", "reply"), again)


# -- frames that lie ----------------------------------------------------------------------------------


async def test_a_reply_counts_only_from_the_node_that_was_called(bed: Bed) -> None:
    await bed.node("worker")
    caller = await bed.node("caller", serves=False)
    await eventually(lambda: len(caller.get_nodes()) == 2)
    pending = asyncio.create_task(caller.send(Slow()))
    await eventually(lambda: caller.counters["pending_calls"] == 1)
    lies: list[Frame] = [Reply(n, msgspec.msgpack.encode(666)) for n in range(100)]
    await bed.shout(bed.inbox_of(caller), batch(bed, *lies))
    await eventually(lambda: caller.counters["foreign_replies"] == 1)
    bed.release.set()
    assert (await pending).unwrap() == 1


async def test_replies_go_to_reply_boxes_and_nowhere_else(bed: Bed) -> None:
    """`reply_to` becomes a subject: one with a line break in it would be a command to the broker."""
    worker = await bed.node("worker")
    garbage = worker.counters["garbage"]
    bad = ["orders.paid", f"{bed.prefix}.inbox.x.1", f"{bed.prefix}.reply.a b", f"{bed.prefix}.reply.a\r\nPUB x 0\r\n"]
    bad += [f"{bed.prefix}.reply.", f"{bed.prefix}.reply.*", f"{bed.prefix}.reply.{'x' * 65}", "\x00"]
    for reply_to in bad:
        await bed.shout(bed.inbox_of(worker), batch(bed, call(1), reply_to=reply_to))
    await eventually(lambda: worker.counters["garbage"] == garbage + len(bad))
    assert bed.ran == 0


async def test_one_id_runs_once_however_often_it_comes(bed: Bed) -> None:
    """Else a caller out of order would get round the limit of concurrency, and out of the count of a drain."""
    worker = await bed.node("worker", max_concurrency=4, max_queue=4)
    frames: list[Frame] = [Call(1, "security.Slow", 60_000, msgspec.msgpack.encode(Slow())) for _ in range(50)]
    await bed.shout(bed.inbox_of(worker), batch(bed, *frames))
    await eventually(lambda: worker.counters["repeated"] == 49)


@pytest.mark.usefixtures("settled_soon")
async def test_nobody_is_fenced_by_a_word(bed: Bed, caplog: pytest.LogCaptureFixture) -> None:
    worker = await bed.node("worker")
    caller = await bed.node("caller", serves=False)
    to, mine = bed.inbox_of(worker), worker.current_node.incarnation
    claims = [mine + 1, mine + 10**9, 2**53 - 1]
    for claim in claims:
        for _ in range(5):
            await bed.shout(to, batch(bed, Ping(), node_id="worker", incarnation=claim))
            await bed.shout(to, batch(bed, Pong(claim)))
            await bed.shout(to, batch(bed, Pong(claim), node_id="worker", incarnation=claim))
        if bed.kind != "memory":
            await bed.announce("worker", encode_record(NodeInfo(node_id="worker", incarnation=claim)))
    await bed.shout(to, batch(bed, Ping(), node_id="worker", incarnation=mine))  # its own, from before
    await eventually(lambda: worker.current_node.incarnation >= mine + 10**9, 30)  # it lives on, beyond the claims

    async def works() -> bool:
        return (await caller.send(Echo(1))).is_success

    await eventually(works, 30)
    assert worker.health == "healthy"
    assert worker.current_node.incarnation < 2**53
    assert "fenced" not in caplog.text


async def test_a_forged_record_of_this_life_is_outdone(brokered: Bed) -> None:
    bed = brokered
    worker = await bed.node("worker")
    caller = await bed.node("caller", serves=False)
    await eventually(lambda: known(worker, caller))
    for sequence in (10**9, 2**53 - 1):
        forged = NodeInfo(node_id="worker", incarnation=worker.current_node.incarnation, sequence=sequence)
        await bed.announce("worker", encode_record(forged))
        await eventually(lambda forged=forged: forged.version < version(caller), 30)
        assert (await caller.send(Echo(1))).unwrap() == 1


def version(caller: DistributedMediator) -> tuple[int, int]:
    """Of the record that the caller has of the worker."""
    return next((node.version for node in caller.get_nodes() if node.node_id == "worker"), (0, 0))


async def test_a_fault_with_an_unknown_code_is_an_error_like_others(bed: Bed) -> None:
    worker = await bed.node("worker")
    caller = await bed.node("caller", serves=False)
    await eventually(lambda: known(worker, caller))
    pending = asyncio.create_task(caller.send(Slow()))
    await eventually(lambda: caller.counters["pending_calls"] == 1)
    faults = [
        msgspec.to_builtins(Fault(n, "no_such_code", "x", {"a": {"b": [1]}}, False, CatgaError("x").execution))
        for n in range(50)
    ]
    fields = msgspec.to_builtins(Batch(VERSION, "worker", worker.current_node.incarnation, 0.0, "", []))
    fields[4], fields[5] = f"{bed.prefix}.reply.x", faults
    await bed.shout(bed.inbox_of(caller), msgspec.msgpack.encode(fields))
    result = await pending
    assert type(result.error) is CatgaError
    assert result.error.details == {"code": "no_such_code", "a": {"b": [1]}}


async def test_twenty_thousand_fake_nodes_are_bounded_and_harm_no_request(brokered: Bed) -> None:
    bed = brokered
    worker = await bed.node("worker")
    caller = await bed.node("caller", serves=False)
    await eventually(lambda: known(worker, caller))
    fakes = [NodeInfo(node_id=f"fake{number}", incarnation=1) for number in range(20_000)]
    for some in (fakes[start : start + 50] for start in range(0, len(fakes), 50)):
        await asyncio.gather(*(bed.announce(fake.node_id, encode_record(fake)) for fake in some))
    await eventually(lambda: caller._joined().membership.view.rejected > 0, 60)  # it was full; some may have died since
    assert 9_900 < len(caller.get_nodes()) <= 10_000
    assert (await caller.send(Echo(7))).unwrap() == 7


async def test_text_that_no_encoder_takes_fails_its_own_call_alone(bed: Bed, caplog: pytest.LogCaptureFixture) -> None:
    """A lone surrogate, as file names may have: in an exception's text it goes escaped, and the node goes on."""
    caplog.set_level("CRITICAL", "catga.handlers")  # pytest-xdist cannot send it either
    app = Mediator()

    @app.handler
    async def slow(request: Slow) -> int:
        raise OSError("cannot open \udc80")

    options = {"prefix": bed.prefix}
    caller = await bed.node("caller", serves=False)
    worker = await bed.node("worker")
    async with add_cluster(app, bed.url, node_id="odd", **options):
        await eventually(lambda: len(caller.get_nodes()) == 3)
        result = await caller.send_to_node(Slow(), "odd")
        assert "cannot open \\udc80" in str(result.error)
        assert (await caller.send_to_node(Echo(2), worker.node_id)).unwrap() == 2


@pytest.mark.parametrize("load", [float("nan"), float("inf"), -1.0, "much", None])
async def test_a_load_function_may_fail(bed: Bed, load: Any) -> None:
    worker = await bed.node("worker", load=lambda: load)
    caller = await bed.node("caller", serves=False)
    await eventually(lambda: known(worker, caller))
    assert (await caller.send(Echo(3))).unwrap() == 3
    late = await bed.node("late", serves=False)
    await eventually(lambda: known(worker, caller, late))


# -- TLS and credentials ------------------------------------------------------------------------------


class Authority:
    """Certificates made for this test."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1", "localhost")
        self.ca, self.cert, self.key = folder / "ca.pem", folder / "cert.pem", folder / "key.pem"
        authority.cert_pem.write_to_path(str(self.ca))
        issued.private_key_pem.write_to_path(str(self.key))
        for blob in issued.cert_chain_pems:
            blob.write_to_path(str(self.cert), append=True)

    @property
    def files(self) -> Tls:
        return Tls(self.cert, self.key, self.ca)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def other_authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("other"))


@asynccontextmanager
async def tls_in_front(port: int, authority: Authority) -> AsyncIterator[int]:
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
    context.load_cert_chain(authority.cert, authority.key)
    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as listening:
        yield listening.sockets[0].getsockname()[1]


@asynccontextmanager
async def tls_broker(kind: str, authority: Authority) -> AsyncIterator[str]:
    if kind == "nats":
        with NatsServer(tls=authority.files, user="it", password="right") as nats_server:
            yield nats_server.url
    else:
        with RedisServer(password="right") as server:
            async with tls_in_front(server.port, authority) as port:
                yield f"rediss://:right@127.0.0.1:{port}"


def trusting(kind: str, authority: Authority) -> dict[str, Any]:
    if kind == "nats":
        return {"tls": ssl.create_default_context(cafile=str(authority.ca))}
    return {"ssl_ca_certs": str(authority.ca)}


@pytest.mark.parametrize("kind", ["nats", "redis"])
async def test_a_cluster_over_tls_with_credentials(kind: str, authority: Authority, other_authority: Authority) -> None:
    app = Mediator()
    app.handles(Echo)(lambda request: request.number)
    async with tls_broker(kind, authority) as url:
        options = trusting(kind, authority)
        async with (
            add_cluster(Mediator(), url, node_id="caller", **options) as caller,
            add_cluster(app, url, node_id="worker", **options),
        ):
            await eventually(lambda: len(caller.get_nodes()) == 2)
            assert (await caller.send(Echo(4))).unwrap() == 4
        for distrusting in ({}, trusting(kind, other_authority)):
            with pytest.raises(ClusterError, match="certificate that cannot be verified") as caught:
                # Raised at once: ten minutes would be the connect timeout.
                await add_cluster(Mediator(), url, connect_timeout=600.0, **distrusting).start()
            assert "right" not in str(caught.value)
        wrong = url.replace("right", "wrong")
        with pytest.raises(ClusterError, match="refused the credentials") as caught:
            await add_cluster(Mediator(), wrong, connect_timeout=600.0, **options).start()
        assert "wrong" not in str(caught.value)


@pytest.mark.parametrize("asked", ["scheme", "option"])
async def test_nothing_is_said_to_a_nats_server_in_plain_text_where_tls_was_asked_for(asked: str) -> None:
    said: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"X","version":"2.11.0","max_payload":1048576,"auth_required":true}\r\n')
        said.append(await reader.read(65_536))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        address = f"it:secret@127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        url = f"{'tls' if asked == 'scheme' else 'nats'}://{address}"
        options = {} if asked == "scheme" else {"tls": ssl.create_default_context()}
        with pytest.raises(ClusterError, match="offers no TLS"):
            await add_cluster(Mediator(), url, connect_timeout=600.0, **options).start()
        await eventually(lambda: said)
    assert b"".join(said) == b""


async def test_tls_is_spoken_to_a_nats_server_that_would_do_without(authority: Authority, tmp_path: Path) -> None:
    files, config = authority.files, tmp_path / "optional.conf"
    config.write_text(f'tls {{ cert_file: "{files.cert}", key_file: "{files.key}" }}\nallow_non_tls: true\n')
    with NatsServer(args=["-c", str(config)]) as server:
        url = server.url.replace("nats://", "tls://")
        async with add_cluster(Mediator(), url, node_id="a", **trusting("nats", authority)) as node:
            client: Any = node._node.membership._discovery._connection.client  # type: ignore[union-attr]
            assert client._transport._io_writer.get_extra_info("cipher") is not None
