"""Places that handlers lend while they wait: who lends which, until when, and in which thread."""

import asyncio
import contextvars
import math
import threading
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from catga import DistributedMediator, Event, Mediator, Request, add_cluster, current, message
from catga.codec import Codec
from catga.errors import OverloadedError
from catga.mediator.nested import Holder, holding
from catga.result import CatgaResult, Success
from catga.rpc.places import Places
from catga.rpc.runner import Endpoint
from catga.rpc.tally import Tally
from catga.testing import eventually

DEADLINE = 30.0


@dataclass(frozen=True)
class Outer(Request[int]):
    pass


@message(timeout=0.1)
@dataclass(frozen=True)
class Hasty(Request[int]):
    pass


@dataclass(frozen=True)
class Inner(Request[int]):
    number: int = 2


@dataclass(frozen=True)
class Halfway(Request[int]):
    pass


@dataclass(frozen=True)
class Noted(Event):
    pass


class Gate:
    """What handlers wait for, and who was there."""

    def __init__(self) -> None:
        self.is_open = threading.Event()
        self.began: list[int] = []

    async def inner(self, request: Inner) -> int:
        self.began.append(request.number)
        await asyncio.sleep(0.01)
        if request.number < 0:
            await eventually(self.is_open.is_set)
        return request.number


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def app(gate: Gate) -> Mediator:
    made = Mediator()
    made.handles(Inner)(gate.inner)
    return made


def small(app: Mediator, **options: Any) -> DistributedMediator:
    """A node with one place."""
    return add_cluster(app, f"memory://{uuid.uuid4().hex}", node_id="small", max_concurrency=1, **options)


def inflight(node: DistributedMediator) -> int:
    return node._joined().peer.server.inflight


@asynccontextmanager
async def clients_of(caller: DistributedMediator, count: int, busy: DistributedMediator) -> AsyncIterator[None]:
    """So many clients, each of which calls `Outer` all the time; once more calls than one wait at the node `busy`."""

    async def client() -> None:
        while True:
            await caller.send(Outer(), timeout=DEADLINE)

    clients = [asyncio.create_task(client()) for _ in range(count)]
    await eventually(lambda: inflight(busy) > 4)
    yield
    for each in clients:
        each.cancel()
    await asyncio.gather(*clients, return_exceptions=True)


async def test_calls_that_handlers_wait_for_do_not_starve_the_others(app: Mediator) -> None:
    front, url = Mediator(), f"memory://{uuid.uuid4().hex}"

    @front.handler
    async def outer(request: Outer) -> int:
        return (await current().send(Inner(), timeout=DEADLINE)).unwrap()

    async with (
        add_cluster(app, url, node_id="small", max_concurrency=1) as node,
        add_cluster(front, url, node_id="front", max_concurrency=8),
        add_cluster(Mediator(), url, node_id="caller") as caller,
        clients_of(caller, 8, node),
    ):
        results = [await caller.send(Inner(number), timeout=DEADLINE) for number in range(5)]
    assert [result.unwrap() for result in results] == list(range(5))


async def test_a_thread_keeps_its_place_though_the_coroutine_that_waited_for_it_was_closed(gate: Gate) -> None:
    app, began = Mediator(), threading.Event()

    @app.handler(in_thread=True)
    def outer(request: Outer) -> int:
        began.set()
        assert gate.is_open.wait(DEADLINE)
        return 1

    async with small(app, max_queue=0) as node:
        call = node.send(Outer())
        call.send(None)
        await eventually(began.is_set)
        call.close()
        assert isinstance((await node.send(Outer())).error, OverloadedError)
        gate.is_open.set()

        async def is_free() -> bool:
            return (await node.send(Outer())).is_success

        await eventually(is_free)


async def test_a_call_that_waits_for_its_place_and_is_closed_gets_none(app: Mediator, gate: Gate) -> None:
    async with small(app) as node:
        first = asyncio.create_task(node.send(Inner(-1)))
        await eventually(lambda: gate.began)
        second = node.send(Inner())
        second.send(None)
        second.close()
        gate.is_open.set()
        assert (await first).unwrap() == -1
        assert (await node.send(Inner(3))).unwrap() == 3


async def test_the_calls_of_a_task_that_its_handler_left_behind_wait_for_their_turn(app: Mediator, gate: Gate) -> None:
    tasks: list[asyncio.Task[CatgaResult[int]]] = []
    is_full = asyncio.Event()

    async def later() -> CatgaResult[int]:
        await is_full.wait()
        return await app.send(Inner(9))

    @app.handler
    async def outer(request: Outer) -> int:
        tasks.append(asyncio.create_task(later()))
        return 1

    async with small(app) as node:
        await node.send(Outer())
        first = asyncio.create_task(node.send(Inner(-1)))
        await eventually(lambda: gate.began)
        second = asyncio.create_task(node.send(Inner(1)))
        await eventually(lambda: inflight(node) == 2)
        is_full.set()
        await eventually(lambda: inflight(node) == 3)
        gate.is_open.set()
        await asyncio.gather(first, second, *tasks)
    assert gate.began == [-1, 1, 9]


async def test_tasks_that_share_a_context_lend_the_place_all_the_same(app: Mediator) -> None:
    @app.handler
    async def outer(request: Outer) -> int:
        context = contextvars.copy_context()
        tasks = [asyncio.create_task(app.send(Inner(number)), context=context) for number in range(3)]
        return sum(result.unwrap() for result in await asyncio.gather(*tasks))

    async with small(app) as node:
        assert (await node.send(Outer())).unwrap() == 3


@pytest.mark.parametrize("strict", [False, True])
async def test_what_a_handler_sends_by_way_of_a_mediator_in_its_process_gets_through(
    app: Mediator, strict: bool
) -> None:
    domain = Mediator(strict=strict)

    @app.handler
    async def outer(request: Outer) -> int:
        return (await domain.send(Hasty(), timeout=DEADLINE)).unwrap()

    @domain.handler
    async def hasty(request: Hasty) -> int:
        return (await app.send(Inner())).unwrap()

    async with small(app) as node:
        assert (await node.send(Outer())).unwrap() == 2


async def test_the_handlers_of_a_node_that_a_handler_starts_do_not_lend_its_place() -> None:
    app, other = Mediator(), Mediator()
    name, started = uuid.uuid4().hex, list[DistributedMediator]()

    @app.handler
    async def outer(request: Outer) -> int:
        started.append(add_cluster(other, f"memory://{name}", node_id="other"))
        await started[0].start()
        return 1

    @other.handler
    async def inner(request: Inner) -> int:
        return int(holding.get() is None)

    async with add_cluster(app, f"memory://{name}", node_id="small", max_concurrency=1) as node:
        assert (await node.send(Outer())).unwrap() == 1
        assert (await node.send(Inner())).unwrap() == 1
        await started[0].stop()


async def test_places_are_lent_in_the_thread_of_their_event_loop() -> None:
    """The verbs of a node may run in another one than those of the handler that calls them."""

    class Lender:
        def __init__(self) -> None:
            self.told: list[tuple[str, int]] = []

        def lend(self) -> None:
            self.told.append(("lent", threading.get_ident()))

        def take_back(self) -> None:
            self.told.append(("back", threading.get_ident()))

    lender, here = Lender(), threading.get_ident()
    holder = Holder(lender, 1)

    def call() -> None:
        holder.waits()
        holder.goes_on()

    await asyncio.to_thread(call)
    await eventually(lambda: len(lender.told) == 2)
    assert lender.told == [("lent", here), ("back", here)]


async def test_a_tier_in_the_middle_leaves_room_for_its_own_callers(app: Mediator) -> None:
    """It lends its places all the time to calls of the tier before it."""
    middle, front, url = Mediator(), Mediator(), f"memory://{uuid.uuid4().hex}"

    @middle.handler
    async def halfway(request: Halfway) -> int:
        return (await current().send(Inner(), timeout=DEADLINE)).unwrap()

    @front.handler
    async def outer(request: Outer) -> int:
        return (await current().send(Halfway(), timeout=DEADLINE)).unwrap()

    async with (
        add_cluster(app, url, node_id="back"),
        add_cluster(middle, url, node_id="middle", max_concurrency=2) as node,
        add_cluster(front, url, node_id="front", max_concurrency=8),
        add_cluster(Mediator(), url, node_id="caller") as caller,
        clients_of(caller, 16, node),
    ):
        results = [await caller.send(Halfway(), timeout=DEADLINE) for _ in range(5)]
    assert [result.unwrap() for result in results] == [2] * 5


async def test_what_a_node_that_drains_has_accepted_may_call_its_other_handlers(app: Mediator) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    @app.handler
    async def outer(request: Outer) -> int:
        begun.set()
        await go_on.wait()
        assert (await current().publish(Noted())).is_success
        return (await current().send(Inner())).unwrap()

    noted: list[Noted] = []

    @app.handler
    async def note(event: Noted) -> None:
        noted.append(event)

    url = f"memory://{uuid.uuid4().hex}"
    async with add_cluster(Mediator(), url, node_id="caller") as caller, add_cluster(app, url, node_id="lone") as lone:
        sending = asyncio.create_task(caller.send(Outer(), timeout=DEADLINE))
        await asyncio.wait_for(begun.wait(), DEADLINE)
        stopping = asyncio.create_task(lone.stop())
        await eventually(lambda: lone.not_ready)
        go_on.set()
        assert (await sending).unwrap() == 2
        assert await stopping == ()
    assert noted == [Noted()]


async def test_a_nested_call_that_begins_leaves_its_room_to_a_new_one() -> None:
    """Until it begins it counts as one that is not nested: the place that it leaves then is given on at once."""
    places = Places(2, 10, lambda call: None)
    assert places.occupy(0)
    places.lend()
    assert places.occupy(1)
    waiting = asyncio.create_task(places.take(math.inf, 0))
    await eventually(lambda: places.waiting)

    async def run(message: object) -> CatgaResult[Any]:
        await asyncio.wait_for(waiting, DEADLINE)
        return Success(1)

    nested = places.held(Endpoint(Codec(Inner), run, Tally()), 1)
    assert (await nested.run(Inner())).unwrap() == 1
