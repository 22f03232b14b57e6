"""Who is told that an invalid message is theirs: HTTP clients, or those who run the handlers."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from catga import CatgaResult, Event, Failure, Mediator, Request, Success, add_cluster, message
from catga.errors import InvalidMessageError
from catga.integrations.fastapi import respond
from catga.mediator.behaviors import Caching, Idempotency, Validation
from catga.routing import ConsistentHash

PLACES = ["one process", "strict", "own node", "another node"]


@dataclass(frozen=True)
class Ordered(Request[int]):
    upto: Any = 1
    is_nested: bool = False


@dataclass(frozen=True)
class Counted(Request[int]):
    upto: int = 1


@dataclass(frozen=True)
class Passed(Request[int]):
    what: Any = None


@message(key=lambda keyed: keyed.missing)
@dataclass(frozen=True)
class Keyed(Request[int]):
    upto: int = 1


@dataclass(frozen=True)
class Told(Event):
    upto: int = 1


Relay = Callable[[Mediator], Awaitable[CatgaResult[Any]]]


class Numbering:
    """An interceptor that sends a header which is no text beside a message that asks for it."""

    async def sending(self, message: Any, headers: dict[str, Any], forward: Any) -> Any:
        if message == Passed("number"):
            headers["number"] = 1
        return await forward(message, headers)

    async def handling(self, message: Any, headers: Any, handle: Any) -> Any:
        return await handle(message)


@asynccontextmanager
async def client(app: Mediator, place: str, others: Mediator | None = None) -> AsyncIterator[Mediator]:
    """What an HTTP endpoint sends by, where the handlers of `app` are there, and those of `others` on one more node."""
    async with AsyncExitStack() as stack:

        async def node_of(mediator: Mediator, node_id: str) -> Mediator:
            node = await stack.enter_async_context(add_cluster(mediator, f"memory://{id(app)}", node_id=node_id))
            node.route(Keyed, ConsistentHash())
            mediator.use(Numbering())
            return node

        caller = app
        if others is not None:
            await node_of(others, "other")
        if "node" in place:
            caller = await node_of(app, "worker")
        if place == "another node":
            caller = await node_of(Mediator(), "caller")
        yield caller


def made(place: str) -> Mediator:
    return Mediator(strict=place == "strict")


def status_of(result: CatgaResult[Any]) -> int:
    assert isinstance(result, Failure)
    assert result.error.code == "invalid_message"
    return respond(result).status_code


@pytest.mark.parametrize("details", [{"name": "Bob"}, {"part": "w-7"}, {"within": 3}, {"path": "$.name"}, None, [1]])
@pytest.mark.parametrize("place", PLACES)
async def test_a_handler_that_finds_its_request_invalid_tells_the_client(place: str, details: Any) -> None:
    app = made(place)

    @app.handler
    def order(ordered: Ordered) -> int:
        raise InvalidMessageError("that name is taken", details=details)

    async with client(app, place) as caller:
        result = await caller.send(Ordered())
    assert status_of(result) == 422
    assert isinstance(result, Failure)
    assert result.error.details == details or not isinstance(details, dict)


UNSENT: dict[str, Relay] = {
    "what cannot be encoded": lambda by: by.send(Passed(object())),
    "no message": lambda by: by.send(3),  # type: ignore[arg-type]
    "an event that is none": lambda by: by.publish(Ordered()),  # type: ignore[arg-type]
    "a value of another type": lambda by: by.send(Counted("x")),  # type: ignore[arg-type]
    "a message of its own class": lambda by: by.send(Ordered(object(), is_nested=True)),
    "an event": lambda by: by.publish(Told("x")),  # type: ignore[arg-type]
    "several events": lambda by: by.publish_batch([Told("x"), Told("y")]),  # type: ignore[arg-type]
}
FAR: dict[str, Relay] = {
    "a value of another type, for another node": lambda by: by.send(Counted("x")),  # type: ignore[arg-type]
    "a header that is no text": lambda by: by.send(Passed("number")),
    "a key that fails": lambda by: by.send(Keyed()),
    "too large": lambda by: by.send(Passed(bytes(2_000_000))),
}


@pytest.mark.parametrize("is_returned", [True, False])
@pytest.mark.parametrize(
    ("place", "what"),
    [
        *((place, what) for place in PLACES[1:] for what in UNSENT),
        *((place, what) for place in PLACES[2:] for what in FAR),
        ("one process", "no message"),
    ],
)
async def test_what_a_handler_sent_is_no_fault_of_the_client(place: str, what: str, is_returned: bool) -> None:
    app, relay = made(place), {**UNSENT, **FAR}[what]
    others = Mediator() if what in FAR else app
    others.handles(Passed)(lambda _: 1)
    others.handles(Counted)(lambda counted: counted.upto)
    others.handles(Keyed)(lambda _: 1)
    app.handles(Told)(lambda _: None)

    @app.handler
    async def order(ordered: Ordered) -> int | Failure:
        if ordered.is_nested:
            return 1
        result = await relay(app)
        return result if isinstance(result, Failure) and is_returned else result.unwrap()

    async with client(app, place, others if what in FAR else None) as caller:
        assert status_of(await caller.send(Ordered())) == 500
        assert status_of(await relay(caller)) == 422


@pytest.mark.parametrize("place", PLACES)
async def test_what_a_handler_of_a_handler_refuses_by_a_behavior_is_told_to_nobody_outside(place: str) -> None:
    """The behavior refuses its own message first: that is an answer to who sent it."""
    app = made(place)
    app.behavior(only=Counted)(Validation())
    app.behavior(only=Passed)(Caching(ttl=60.0))
    app.behavior(only=Told)(Idempotency(key=lambda _: None))
    app.handles(Counted)(lambda counted: counted.upto)
    app.handles(Passed)(lambda _: 1)
    app.handles(Told)(lambda _: None)
    relays: list[Relay] = [
        lambda by: by.send(Counted("x")),  # type: ignore[arg-type]
        lambda by: by.send(Passed(object())),
        lambda by: by.publish(Told()),
    ]

    @app.handler
    async def order(ordered: Ordered) -> int:
        return (await relays[ordered.upto](app)).unwrap() or 1

    async with client(app, place) as caller:
        for number, relay in enumerate(relays):
            assert status_of(await relay(caller)) == 422
            assert status_of(await caller.send(Ordered(number))) == 500


class Unwrapping:
    """An interceptor that raises the failure that it was given."""

    async def sending(self, message: Any, headers: dict[str, str], forward: Any) -> Any:
        return Success((await forward(message, headers)).unwrap())

    async def handling(self, message: Any, headers: Any, handle: Any) -> Any:
        return Success((await handle(message)).unwrap())


@pytest.mark.parametrize("place", PLACES[1:])
async def test_an_interceptor_may_raise_what_it_was_given(place: str) -> None:
    app = made(place)
    app.use(Unwrapping())
    app.handles(Counted)(lambda counted: counted.upto)

    @app.handler
    async def order(ordered: Ordered) -> int:
        return (await app.send(Counted("x"))).unwrap()  # type: ignore[arg-type]

    async with client(app, place) as caller:
        assert status_of(await caller.send(Counted("x"))) == 422  # type: ignore[arg-type]
        assert status_of(await caller.send(Ordered())) == 500


async def test_an_event_that_several_services_refuse_is_not_the_clients_if_a_handler_published_it() -> None:
    shop, billing = Mediator(), Mediator()
    for app in (shop, billing):
        app.handles(Told)(lambda _: None)

    @shop.handler
    async def order(ordered: Ordered) -> int:
        (await shop.publish(Told("x"))).unwrap()  # type: ignore[arg-type]
        return 1

    async with (
        add_cluster(billing, "memory://refused-by-two", service="billing"),
        add_cluster(shop, "memory://refused-by-two", service="shop"),
        add_cluster(Mediator(), "memory://refused-by-two", service="web") as caller,
    ):
        assert status_of(await caller.publish(Told("x"))) == 422  # type: ignore[arg-type]
        assert status_of(await caller.send(Ordered())) == 500
