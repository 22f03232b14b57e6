"""Class-based handlers from svcs and dishka: dependencies are injected, and released with the message."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import svcs
from dishka import Provider, Scope, make_async_container, make_container

from catga import Failure, Mediator, Request, Success, add_cluster
from catga.abc import Resolver
from catga.integrations.dishka import DishkaResolver
from catga.integrations.svcs import SvcsResolver
from catga.testing import eventually


@dataclass(frozen=True)
class CreateOrder(Request[str]):
    sku: str


class Database:
    def __init__(self) -> None:
        self.is_open = True


class CreateOrderHandler:
    def __init__(self, database: Database) -> None:
        self.database = database

    async def handle(self, request: CreateOrder) -> str:
        assert self.database.is_open
        return f"ordered {request.sku}"


async def test_svcs_makes_the_handler_and_closes_what_it_needs() -> None:
    databases: list[Database] = []

    def database() -> Iterator[Database]:
        databases.append(Database())
        yield databases[-1]
        databases[-1].is_open = False

    async def handler(container: svcs.Container) -> CreateOrderHandler:
        return CreateOrderHandler(await container.aget(Database))

    registry = svcs.Registry()
    registry.register_factory(Database, database)

    async def make(svcs_container: svcs.Container) -> CreateOrderHandler:
        return await handler(svcs_container)

    registry.register_factory(CreateOrderHandler, make)
    app = Mediator(resolver=SvcsResolver(registry))
    app.add_handler(CreateOrder, CreateOrderHandler)
    assert (await app.send(CreateOrder("tea"))).unwrap() == "ordered tea"
    assert [database.is_open for database in databases] == [False]
    await registry.aclose()


async def test_dishka_makes_the_handler_and_closes_what_it_needs() -> None:
    databases: list[Database] = []

    async def database() -> AsyncIterator[Database]:
        databases.append(Database())
        yield databases[-1]
        databases[-1].is_open = False

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(database)
    provider.provide(CreateOrderHandler)
    container = make_async_container(provider)
    app = Mediator(resolver=DishkaResolver(container))
    app.add_handler(CreateOrder, CreateOrderHandler)
    assert (await app.send(CreateOrder("tea"))).unwrap() == "ordered tea"
    assert [database.is_open for database in databases] == [False]
    await container.close()


@dataclass(frozen=True)
class Work(Request[int]):
    what: str = ""


class Opened(list[str]):
    """What is open of a message, and what was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.closed: list[str] = []
        self.at_work = 0


class Session:
    def __init__(self, opened: Opened) -> None:
        self.opened = opened


class Slow:
    pass


class Worker:
    def __init__(self, session: Session, slow: Slow) -> None:
        self.session = session

    async def handle(self, work: Work) -> int:
        self.session.opened.at_work += 1
        if work.what == "raises":
            raise KeyError(work.what)
        if work.what == "waits":
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        return id(self.session)


def providers(opened: Opened, opens: bool) -> tuple[Callable[[], AsyncIterator[Session]], Callable[[], Any]]:
    async def session() -> AsyncIterator[Session]:
        name = f"session-{len(opened)}"
        opened.append(name)
        yield Session(opened)
        await asyncio.sleep(0)  # it is closed in a later turn, as a connection is
        opened.closed.append(name)

    async def slow() -> Slow:
        if not opens:
            opened.at_work += 1
            await asyncio.Event().wait()
        return Slow()

    return session, slow


def of_svcs(opened: Opened, opens: bool = True) -> Resolver:
    session, slow = providers(opened, opens)
    registry: Any = svcs.Registry()
    registry.register_factory(Session, session)
    registry.register_factory(Slow, slow)

    async def worker(svcs_container: svcs.Container) -> Worker:
        return Worker(await svcs_container.aget(Session), await svcs_container.aget(Slow))

    registry.register_factory(Worker, worker)
    return SvcsResolver(registry)


def of_dishka(opened: Opened, opens: bool = True) -> Resolver:
    session, slow = providers(opened, opens)
    provider = Provider(scope=Scope.REQUEST)
    provider.provide(session)
    provider.provide(slow, provides=Slow)
    provider.provide(Worker)
    return DishkaResolver(make_async_container(provider))


RESOLVERS = pytest.mark.parametrize("made_of", [of_svcs, of_dishka])
PLACES = pytest.mark.parametrize("place", ["one process", "own node", "another node"])


async def caller_of(stack: AsyncExitStack, app: Mediator, place: str) -> Mediator:
    if place == "one process":
        return app
    node = await stack.enter_async_context(add_cluster(app, f"memory://{id(app)}", node_id="worker"))
    if place == "own node":
        return node
    return await stack.enter_async_context(add_cluster(Mediator(), f"memory://{id(app)}", node_id="caller"))


@PLACES
@RESOLVERS
async def test_messages_at_the_same_time_share_nothing_and_leave_nothing_open(made_of: Any, place: str) -> None:
    opened = Opened()
    app = Mediator(resolver=made_of(opened))
    app.add_handler(Work, Worker)
    async with AsyncExitStack() as stack:
        caller = await caller_of(stack, app, place)
        results = await asyncio.gather(*(caller.send(Work("raises" if n % 4 == 0 else "")) for n in range(40)))
        assert [isinstance(result, Failure) for result in results] == [n % 4 == 0 for n in range(40)]
        assert len({result.value for result in results if isinstance(result, Success)}) > 1
        assert sorted(opened.closed) == sorted(opened)
        assert len(opened) == 40


@pytest.mark.parametrize("opens", [True, False])
@PLACES
@RESOLVERS
async def test_a_message_that_is_cancelled_leaves_nothing_open(made_of: Any, place: str, opens: bool) -> None:
    """While it is handled, or while what it needs is opened."""
    opened = Opened()
    app = Mediator(resolver=made_of(opened, opens))
    app.add_handler(Work, Worker)
    async with AsyncExitStack() as stack:
        caller = await caller_of(stack, app, place)
        asked = asyncio.create_task(caller.send(Work("waits")))
        await eventually(lambda: opened.at_work)
        asked.cancel()
        await asyncio.wait([asked])
        await eventually(lambda: opened.closed == opened == ["session-0"])


@pytest.mark.parametrize(
    ("make", "given"),
    [
        (DishkaResolver, make_container(Provider(scope=Scope.APP))),
        (DishkaResolver, svcs.Registry()),
        (SvcsResolver, svcs.Container(svcs.Registry())),
        (SvcsResolver, None),
    ],
)
def test_what_makes_no_handlers_is_refused_before_a_message_comes(make: Any, given: Any) -> None:
    with pytest.raises(TypeError, match=f"{make.__name__} takes an? .*, got"):
        make(given)


@pytest.mark.parametrize("made_of", [SvcsResolver, lambda _: DishkaResolver(make_async_container(Provider()))])
async def test_a_handler_that_is_missing_is_named(made_of: Any) -> None:
    app = Mediator(resolver=made_of(svcs.Registry()))
    app.add_handler(CreateOrder, CreateOrderHandler)
    result = await app.send(CreateOrder("tea"))
    assert isinstance(result, Failure)
    assert "CreateOrderHandler" in result.error.message
