"""Deaths: forged ones, true ones on a signed bus, and true ones beside a client that listens to everything."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import nats
import pytest
from redis.asyncio import Redis
from test_security import KEYS, Bed, Echo, batch, bed_on, known

from catga import DistributedMediator, Mediator, add_cluster
from catga.abc import Departure
from catga.membership.records import encode_departure, encode_record
from catga.node import NEWEST, OUTGROWABLE, LeftReason, NodeChangeType, NodeInfo
from catga.rpc.wire import Ping
from catga.testing.faults import Faults, inject
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
