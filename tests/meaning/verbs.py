"""What handlers send and publish themselves."""

from dataclasses import dataclass

from failures import Ask, Asked, SoldOutError
from places import Table, failure, success

from catga import Mediator, Request, current
from catga.mediator.router import Router

TABLE = Table()
means = TABLE.means


@dataclass(frozen=True)
class Outer(Request[int]):
    number: int = 1


def doubling(app: Mediator) -> None:
    @app.handler
    async def ask(ask: Ask) -> int:
        return 2 * ask.number


@means(success(8))
def a_handler_sends_by_its_mediator(app: Mediator) -> Outer:
    doubling(app)

    @app.handler
    async def outer(outer: Outer) -> int:
        return (await app.send(Ask(outer.number))).unwrap()

    return Outer(4)


@means(success(3))
def a_handler_publishes_by_its_mediator(app: Mediator) -> Outer:
    heard: list[int] = []

    @app.handler
    async def asked(asked: Asked) -> None:
        heard.append(asked.number)

    @app.handler
    async def outer(outer: Outer) -> int:
        (await app.publish(Asked(outer.number))).unwrap()
        return heard[0]

    return Outer(3)


@means(success(8))
def a_handler_of_a_router_sends_by_current(app: Mediator) -> Outer:
    router = Router()
    doubling(app)

    @router.handler
    async def outer(outer: Outer) -> int:
        return (await current().send(Ask(outer.number))).unwrap()

    app.include(router)
    return Outer(4)


@means(success(8))
def a_handler_that_is_a_class_sends_by_current(app: Mediator) -> Outer:
    doubling(app)

    class Handler:
        async def handle(self, outer: Outer) -> int:
            return (await current().send(Ask(outer.number))).unwrap()

    app.add_handler(Outer, Handler)
    return Outer(4)


@means(success(16))
def a_chain_of_handlers_sends_by_current(app: Mediator) -> Outer:
    @app.handler
    async def ask(ask: Ask) -> int:
        return ask.number if ask.number > 8 else (await current().send(Ask(2 * ask.number))).unwrap()

    @app.handler
    async def outer(outer: Outer) -> int:
        return (await current().send(Ask(outer.number))).unwrap()

    return Outer(4)


@means(failure("meaning.sold_out", "none left"))
def the_failure_of_a_nested_request_is_the_handlers_own_if_it_is_unwrapped(app: Mediator) -> Outer:
    @app.handler
    async def ask(ask: Ask) -> int:
        raise SoldOutError("none left")

    @app.handler
    async def outer(outer: Outer) -> int:
        return (await app.send(Ask())).unwrap()

    return Outer()


@means(success([2, 4, 6]))
def a_handler_sends_a_batch(app: Mediator) -> "Many":
    doubling(app)

    @app.handler
    async def many(many: Many) -> list[int]:
        return [result.unwrap() for result in await app.send_batch([Ask(n) for n in (1, 2, 3)])]

    return Many()


@dataclass(frozen=True)
class Many(Request[list[int]]):
    """Answered with a list."""
