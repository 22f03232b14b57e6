"""Deaths: forged ones, true ones on a signed bus, and true ones beside a client that listens to everything."""

import asyncio
import itertools
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import nats
import pytest
from harness import FaultCluster
from messages import Crunch, Toil
from nats.aio.msg import Msg
from redis.asyncio import Redis
from test_security import KEYS, Bed, Echo, batch, bed_on, known

from catga import DistributedMediator, Mediator, add_cluster
from catga.abc import Departure
from catga.errors import MaybeExecutedError
from catga.membership.records import encode_departure, encode_record
from catga.node import NEWEST, OUTGROWABLE, LeftReason, NodeChangeType, NodeInfo
from catga.result import Failure
from catga.rpc.subjects import inbox
from catga.rpc.wire import Ping
from catga.testing.faults import Faults, inject
from catga.testing.servers import NatsServer
from catga.testing.waiting import eventually

pytestmark = pytest.mark.usefixtures("settled_soon")


@pytest.fixture(params=["nats", "redis"])
async def brokered(request: pytest.FixtureRequest) -> AsyncIterator[Bed]:
    async with bed_on(request.param, request) as bed:
        yield bed


async def mortal(bed: Bed, node_id: str, **options: object) -> tuple[DistributedMediator, Faults]:
    """A node that can be killed, and by what."""
    made = add_cluster(Mediator(), bed.url, node_id=node_id, prefix=bed.prefix, probe_interval=0.2, **options)
    faults = inject(made)
    return await bed.stack.enter_async_context(made), faults


async def why_left(node: DistributedMediator, node_id: str) -> LeftReason | None:
    """Wait until that node has left; returns the reason."""
    async for event in node.watch():
        if event.type is NodeChangeType.LEFT and event.node.node_id == node_id:
            return event.reason
    return None


@pytest.mark.parametrize("incarnation", [OUTGROWABLE - 1, OUTGROWABLE, NEWEST - 1])
@pytest.mark.parametrize("kind", ["record", "departure"])
async def test_a_node_outlives_what_is_forged_of_the_newest_incarnations(
    brokered: Bed, kind: str, incarnation: int
) -> None:
    bed = brokered
    worker = await bed.node("worker")
    caller = await bed.node("caller", serves=False)
    await eventually(lambda: known(worker, caller))
    if kind == "record":
        forged = encode_record(NodeInfo(node_id="worker", incarnation=incarnation))
    else:
        forged = encode_departure(Departure("worker", incarnation, LeftReason.CRASHED))
    await bed.announce("worker", forged)
    await bed.node("mark", serves=False)
    for node in (worker, caller):  # by now they have heard what was announced before, too
        await eventually(lambda node=node: any(n.node_id == "mark" for n in node.get_nodes()))

    async def works() -> bool:
        mine = worker.current_node.incarnation
        seen = any(n.node_id == "worker" and n.incarnation == mine for n in caller.get_nodes())
        return seen and (await caller.send(Echo(1))).is_success

    await eventually(works, 60)
    assert worker.health == "healthy"


async def test_forged_incarnations_leave_nothing_behind(bed_of_memory: Bed) -> None:
    """Each of them is asked whether it lives; none of them becomes a destination of calls."""
    bed = bed_of_memory
    worker = await bed.node("worker")
    peer, mine = worker._joined().peer, worker.current_node.incarnation
    for number in range(1, 3000):
        await bed.shout(bed.inbox_of(worker), batch(bed, Ping(), node_id="worker", incarnation=mine + 10**9 + number))
        if number % 100 == 0:
            await asyncio.sleep(0)
    await eventually(lambda: len(peer.probes._strangers) > 100)
    assert len(peer.probes._strangers) <= 1024
    assert len(peer.client.destinations) <= 3
    assert len(peer.client.destinations.by_subject) <= 3


@pytest.fixture
async def bed_of_memory(request: pytest.FixtureRequest) -> AsyncIterator[Bed]:
    async with bed_on("memory", request) as bed:
        yield bed


async def test_a_crash_on_a_signed_bus_is_known_to_all(brokered: Bed) -> None:
    bed = brokered
    first, second = [await bed.node(name, serves=False, signing_keys=KEYS[:1]) for name in ("first", "second")]
    worker, faults = await mortal(bed, "worker", signing_keys=KEYS[:1])
    await eventually(lambda: known(first, second, worker))
    learning = [asyncio.create_task(why_left(node, "worker")) for node in (first, second)]
    await asyncio.sleep(0)
    await faults.kill()
    assert await asyncio.wait_for(asyncio.gather(*learning), 60) == [LeftReason.CRASHED] * 2


@asynccontextmanager
async def listening_to_everything(bed: Bed) -> AsyncIterator[None]:
    """A client that makes every message find a listener."""
    async with AsyncExitStack() as stack:
        if bed.kind == "nats":
            client = await nats.connect(bed.url)
            stack.push_async_callback(client.close)
            await client.subscribe(f"{bed.prefix}.>")
            await client.flush()
        else:
            redis = await stack.enter_async_context(Redis.from_url(bed.url))
            listener = await stack.enter_async_context(redis.pubsub())
            await listener.psubscribe(f"{bed.prefix}*")
            await listener.get_message(timeout=10)
        yield


async def test_a_crash_beside_a_client_that_listens_to_everything_is_known_to_all(
    brokered: Bed, caplog: pytest.LogCaptureFixture
) -> None:
    bed = brokered
    first, second = [await bed.node(name, serves=False) for name in ("first", "second")]
    third, faults = await mortal(bed, "third")
    await eventually(lambda: known(first, second, third))
    async with listening_to_everything(bed):
        learning = [asyncio.create_task(why_left(node, "third")) for node in (first, second)]
        await asyncio.sleep(0)
        await faults.kill()
        reasons = await asyncio.wait_for(asyncio.gather(*learning), 90)
    # On a broker that can count exactly it is a crash as any other.
    assert set(reasons) <= {LeftReason.UNREACHABLE, LeftReason.CRASHED}
    assert "the broker does not tell when nobody listens" in caplog.text
    assert first.counters["missing_bounces"] + second.counters["missing_bounces"] > 0


class FirstOfAll:
    """Picks the node whose id comes first."""

    def select(self, nodes: Sequence[NodeInfo], message: object) -> NodeInfo:
        return nodes[0]


@asynccontextmanager
async def forging_bounces(url: str, subject: str) -> AsyncIterator[list[str]]:
    """A client that answers whatever comes to `subject` as the server does when nobody listens; yields where it did."""
    told: list[str] = []
    status = b"NATS/1.0 503\r\n\r\n"
    client = await nats.connect(url)

    async def forge(message: Msg) -> None:
        told.append(message.reply)
        await client._send_command(f"HPUB {message.reply} {len(status)} {len(status)}\r\n".encode() + status + b"\r\n")
        await client.flush()

    listening = await client.subscribe(subject, cb=forge)
    await client.flush()
    yield told
    await listening.unsubscribe()
    await client.close()


async def test_forged_bounces_at_a_busy_node_of_a_signed_cluster_make_nothing_run_twice_and_nobody_dead(
    nats_server: NatsServer,
) -> None:
    """It keeps the CPU for longer than two bounces take to be a death, and for less than the other one believes in."""
    prefix, ids, once = f"security-{uuid.uuid4().hex[:8]}", itertools.count(1), list[int]()
    options = {"prefix": prefix, "signing_keys": KEYS[:1]}

    def toil(seconds: float = 0.004) -> Toil:
        once.append(-next(ids))
        return Toil(once[-1], seconds)

    async with FaultCluster(nats_server, callers=1, caller_options={"routing": FirstOfAll()}, **options) as cluster:
        await cluster.start(("busy", "other"))
        (caller,) = cluster.callers
        caller._node.membership.prober._settled_at = 0.0  # type: ignore[union-attr]  # it may declare deaths by now
        busy = next(node for node in caller.get_nodes() if node.node_id == "busy")
        async with forging_bounces(nats_server.url, inbox(prefix, "busy", busy.incarnation)) as bounces:
            result = await caller.send(toil(1.2))
            for _ in range(11):
                await caller.send_to_node(toil(), "busy")
                await asyncio.sleep(0.1)
            report = await cluster.load(lambda i: toil(0.3) if i % 2 else Crunch(i, 0.3), 1.0, rate=8.0)
        for node_id in ("busy", "other"):  # behind all that came before
            (await caller.send_to_node(toil(), node_id)).unwrap()
        assert cluster.departures(0.0) == []
        assert [i for i, times in cluster.executions().items() if i < 0 and times > 1] == []
        assert set(once) == {i for i in cluster.executions() if i < 0}  # each was sent, and nobody was told otherwise
        assert isinstance(result, Failure)
        assert isinstance(result.error, MaybeExecutedError)
        assert [a.error for a in report.failed if not isinstance(a.error, MaybeExecutedError) or a.id % 2 == 0] == []
        assert len(bounces) >= 12


async def test_forged_bounces_of_its_own_pings_do_not_part_a_signed_node_from_the_bus(
    nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    bed = Bed(nats_server.url, "nats")
    async with bed.stack:
        worker = await bed.node("worker", signing_keys=KEYS[:1])
        async with forging_bounces(bed.url, bed.inbox_of(worker)) as bounces:
            counted = worker.counters["undeliverable"]
            await eventually(lambda: worker.counters["undeliverable"] >= counted + 5)
            assert len(bounces) >= 5
        assert "the link to the broker is down" not in caplog.text
