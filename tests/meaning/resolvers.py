"""Handlers in classes, made by containers, which send by the `Mediator` that they ask for."""

from typing import Any

import svcs
from dishka import Provider, Scope, make_async_container
from failures import Ask
from places import Table, success
from verbs import Outer

from catga import Mediator, current
from catga.integrations.dishka import CatgaProvider, DishkaResolver
from catga.integrations.svcs import SvcsResolver

TABLE = Table()
means = TABLE.means


class OuterHandler:
    def __init__(self, mediator: Mediator) -> None:
        self.mediator = mediator

    async def handle(self, outer: Outer) -> int:
        assert self.mediator is current()
        return (await self.mediator.send(Ask(outer.number))).unwrap()


async def made(svcs_container: svcs.Container) -> OuterHandler:
    return OuterHandler(await svcs_container.aget(Mediator))


def made_plainly(svcs_container: svcs.Container) -> OuterHandler:
    return OuterHandler(svcs_container.get(Mediator))


def sending(app: Mediator, resolver: Any) -> Outer:
    app.resolver = resolver
    app.add_handler(Outer, OuterHandler)
    app.handles(Ask)(lambda ask: 2 * ask.number)
    return Outer(4)


@means(success(8))
def a_handler_of_svcs_gets_its_mediator(app: Mediator) -> Outer:
    registry = svcs.Registry()
    registry.register_factory(OuterHandler, made)
    return sending(app, SvcsResolver(registry))


@means(success(8))
def a_handler_of_svcs_gets_its_mediator_though_another_is_registered(app: Mediator) -> Outer:
    registry = svcs.Registry()
    registry.register_factory(OuterHandler, made)
    registry.register_value(Mediator, app)
    return sending(app, SvcsResolver(registry))


@means(success(8))
def a_handler_of_svcs_gets_its_mediator_in_a_plain_factory(app: Mediator) -> Outer:
    registry = svcs.Registry()
    registry.register_factory(OuterHandler, made_plainly)
    return sending(app, SvcsResolver(registry))


@means(success(8))
def a_handler_of_dishka_gets_its_mediator(app: Mediator) -> Outer:
    provider = Provider(scope=Scope.REQUEST)
    provider.provide(OuterHandler)
    return sending(app, DishkaResolver(make_async_container(provider, CatgaProvider())))
