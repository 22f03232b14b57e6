"""Handlers that wait for calls to their own node do not wait for the places that they hold themselves."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from catga import DistributedMediator, Mediator, Request, add_cluster, current, message
from catga.errors import OverloadedError

PLACES = 4


@message(timeout=60.0)
@dataclass(frozen=True)
class Outer(Request[int]):
    number: int


@dataclass(frozen=True)
class Middle(Request[int]):
    number: int


@dataclass(frozen=True)
class Inner(Request[int]):
    number: int


@dataclass(frozen=True)
class Innermost(Request[int]):
    number: int


@dataclass(frozen=True)
class Many(Request[list[int]]):
    pass


@dataclass(frozen=True)
class Down(Request[int]):
    steps: int


def passing(app: Mediator, taken: type, sent: type | None) -> None:
    """Give `app` a handler that looks something up, and asks on."""

    @app.handles(taken)
    async def handler(request) -> int:  # type: ignore[no-untyped-def]
        await asyncio.sleep(0.01)
        if sent is None:
            return 2 * int(request.number)
        result = await current().send(sent(request.number))
        return int(result.unwrap())


@pytest.fixture(params=["memory", "nats", "redis"])
def url(request: pytest.FixtureRequest) -> str:
    name = f"memory://{uuid.uuid4().hex}"
    return name if request.param == "memory" else str(request.getfixturevalue(f"{request.param}_url"))


@asynccontextmanager
async def joined(url: str, *apps: Mediator) -> AsyncIterator[list[DistributedMediator]]:
    """A node with few places for each of `apps`, and a caller."""
    prefix = f"t{uuid.uuid4().hex[:12]}"
    nodes = [
        add_cluster(app, url, node_id=str(number), prefix=prefix, max_concurrency=PLACES)
        for number, app in enumerate(apps)
    ]
    async with add_cluster(Mediator(), url, node_id="caller", prefix=prefix) as caller:
        for node in nodes:
            await node.start()
        try:
            yield [*nodes, caller]
        finally:
            for node in nodes:
                await node.stop()


@pytest.mark.parametrize("count", [PLACES, 10 * PLACES])
@pytest.mark.parametrize("sender", ["own", "other"])
async def test_calls_to_the_own_node_get_through(url: str, sender: str, count: int) -> None:
    app = Mediator()
    passing(app, Outer, Inner)
    passing(app, Inner, None)
    async with joined(url, app) as (node, caller):
        send = {"own": node, "other": caller}[sender].send_batch
        results = await send([Outer(number) for number in range(count)])
    assert [result.unwrap() for result in results] == [2 * number for number in range(count)]


async def test_calls_of_blocking_functions_get_through(url: str) -> None:
    app = Mediator()

    @app.handler(in_thread=True)
    def outer(request: Outer) -> int:
        return asyncio.run(current().send(Inner(request.number))).unwrap()

    @app.handler(in_thread=True)
    def inner(request: Inner) -> int:
        return 2 * request.number

    async with joined(url, app) as (_, caller):
        results = await caller.send_batch([Outer(number) for number in range(10 * PLACES)])
    assert [result.unwrap() for result in results] == [2 * number for number in range(10 * PLACES)]


@pytest.mark.parametrize("count", [PLACES, 10 * PLACES])
async def test_calls_that_come_back_by_way_of_another_node_get_through(url: str, count: int) -> None:
    one, other = Mediator(), Mediator()
    passing(one, Outer, Middle)
    passing(other, Middle, Inner)
    passing(one, Inner, Innermost)
    passing(other, Innermost, None)
    async with joined(url, one, other) as (*_, caller):
        results = await caller.send_batch([Outer(number) for number in range(count)])
    assert [result.unwrap() for result in results] == [2 * number for number in range(count)]


async def test_calls_between_nodes_of_one_service_get_through(url: str) -> None:
    """The places of each are held by handlers that wait for the others' places."""

    def app() -> Mediator:
        made = Mediator()
        passing(made, Outer, Middle)
        passing(made, Middle, Inner)
        passing(made, Inner, None)
        return made

    async with joined(url, app(), app(), app()) as (*_, caller):
        results = await caller.send_batch([Outer(number) for number in range(40 * PLACES)], concurrency=40 * PLACES)
    assert [result.unwrap() for result in results] == [2 * number for number in range(40 * PLACES)]


async def test_calls_of_two_services_that_need_each_other_get_through(url: str) -> None:
    one, other = Mediator(), Mediator()
    passing(one, Outer, Middle)
    passing(other, Middle, None)
    passing(other, Inner, Innermost)
    passing(one, Innermost, None)
    async with joined(url, one, other) as (*_, caller):
        requests = [kind(number) for number in range(10 * PLACES) for kind in (Outer, Inner)]
        results = await caller.send_batch(requests, concurrency=len(requests))
    assert [result.unwrap() for result in results] == [2 * request.number for request in requests]


async def test_no_more_handlers_are_at_work_than_there_are_places(url: str) -> None:
    app, at_work, most = Mediator(), 0, 0

    async def work() -> None:
        nonlocal at_work, most
        at_work, most = at_work + 1, max(most, at_work + 1)
        await asyncio.sleep(0.01)
        at_work -= 1

    @app.handler
    async def outer(request: Outer) -> int:
        await work()
        return (await current().send(Inner(request.number))).unwrap()

    @app.handler
    async def inner(request: Inner) -> int:
        await work()
        return request.number

    async with joined(url, app) as (_, caller):
        results = await caller.send_batch([Outer(number) for number in range(10 * PLACES)], concurrency=10 * PLACES)
    assert [result.unwrap() for result in results] == list(range(10 * PLACES))
    assert most <= PLACES


async def test_calls_of_tasks_of_a_handler_get_through_and_not_all_at_once(url: str) -> None:
    app, running, most = Mediator(), 0, 0

    @app.handler
    async def many(request: Many) -> list[int]:
        results = await current().send_batch([Inner(number) for number in range(20)])
        return [result.unwrap() for result in results]

    @app.handler
    async def inner(request: Inner) -> int:
        nonlocal running, most
        running, most = running + 1, max(most, running + 1)
        await asyncio.sleep(0.01)
        running -= 1
        return request.number

    async with joined(url, app) as (_, caller):
        results = await caller.send_batch([Many()] * PLACES)
    assert [result.unwrap() for result in results] == [list(range(20))] * PLACES
    assert most <= 2 * PLACES


def descending(app: Mediator) -> None:
    @app.handler
    async def down(request: Down) -> int:
        if not request.steps:
            return 0
        return 1 + (await current().send(Down(request.steps - 1))).unwrap()


async def test_a_recursion_gets_deeper_than_there_are_places(url: str) -> None:
    app = Mediator()
    descending(app)
    async with joined(url, app) as (node, caller):
        assert (await caller.send(Down(3 * PLACES))).unwrap() == 3 * PLACES
        assert (await node.send(Down(3 * PLACES))).unwrap() == 3 * PLACES


async def test_a_recursion_without_an_end_ends(url: str) -> None:
    app = Mediator()
    descending(app)
    async with joined(url, app) as (node, caller):
        assert isinstance((await caller.send(Down(10**6))).error, OverloadedError)
        assert isinstance((await node.send(Down(10**6))).error, OverloadedError)
        assert (await caller.send(Down(1))).unwrap() == 1


async def test_it_is_logged_once(url: str, caplog: pytest.LogCaptureFixture) -> None:
    app = Mediator()
    passing(app, Outer, Inner)
    passing(app, Inner, None)
    async with joined(url, app) as (_, caller):
        await caller.send_batch([Outer(number) for number in range(10 * PLACES)])
    texts = [record.getMessage() for record in caplog.records if "all 4 places are held" in record.getMessage()]
    assert len(texts) == 1
