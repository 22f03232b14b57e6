"""Class-based handlers from svcs and dishka: dependencies are injected, and released with the message."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import svcs
from dishka import Provider, Scope, make_async_container

from catga import Mediator, Request
from catga.integrations.dishka import DishkaResolver
from catga.integrations.svcs import SvcsResolver


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
