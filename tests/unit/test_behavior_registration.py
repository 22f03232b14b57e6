"""Routers, class-based handlers, interceptors and the start-up check."""

import asyncio
import functools
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest

from catga import Event, Failure, Mediator, Request, Success, message
from catga.abc import CallNext, Forward, Handle
from catga.errors import DuplicateHandlerError, HandlerError, InvalidMessageError
from catga.mediator import Router
from catga.mediator.annotations import label
from catga.mediator.behaviors import Idempotency
from catga.result import CatgaResult


@dataclass(frozen=True)
class Add(Request[int]):
    a: int
    b: int


@dataclass(frozen=True)
class Added(Event):
    total: int


class Adder:
    def __init__(self, offset: int = 0) -> None:
        self.offset = offset

    async def handle(self, request: Add) -> int:
        return request.a + request.b + self.offset


class OtherAdder(Adder):
    """Another handler class."""


class Resolver:
    def __init__(self) -> None:
        self.released = 0

    @asynccontextmanager
    async def resolve(self, cls: type[Any]) -> AsyncIterator[Any]:
        try:
            yield cls(100)
        finally:
            self.released += 1


async def test_a_handler_class_is_made_for_each_message() -> None:
    app = Mediator()
    app.add_handler(Add, Adder)
    assert (await app.send(Add(1, 2))).unwrap() == 3


async def test_a_resolver_makes_and_releases_the_instance() -> None:
    resolver = Resolver()
    app = Mediator(resolver=resolver)
    app.add_handler(Add, Adder)
    assert (await app.send(Add(1, 2))).unwrap() == 103
    assert resolver.released == 1


async def test_the_resolver_of_the_including_mediator_is_used() -> None:
    router = Router()
    router.add_handler(Add, Adder)
    app = Mediator(resolver=Resolver())
    app.include(router)
    assert (await app.send(Add(1, 2))).unwrap() == 103


def test_a_class_without_handle_is_refused() -> None:
    with pytest.raises(InvalidMessageError, match="give it a method"):
        Mediator().add_handler(Add, int)  # type: ignore[arg-type]


async def test_a_handler_class_that_cannot_be_made_is_a_failure() -> None:
    class Needy:
        def __init__(self, dependency: object) -> None: ...

        def handle(self, request: Add) -> int:
            return 0

    app = Mediator()
    app.add_handler(Add, Needy)
    result = await app.send(Add(1, 2))
    assert isinstance(result, Failure)
    assert isinstance(result.error, HandlerError)


async def test_behaviors_of_a_router_stay_around_its_own_handlers() -> None:
    calls: list[str] = []

    def noting(name: str) -> Any:
        async def note(message: Any, call_next: CallNext[Any, Any]) -> Any:
            calls.append(name)
            return await call_next(message)

        return note

    router = Router()
    router.behavior(noting("router"))

    @router.handler
    async def add(request: Add) -> CatgaResult[int]:
        return Success(request.a + request.b)

    @router.handler
    async def first(event: Added) -> None:
        calls.append("first")

    app = Mediator()
    app.include(router)
    app.behavior(noting("app"))

    @app.handler
    def second(event: Added) -> None:
        calls.append("second")

    assert (await app.send(Add(1, 2))).unwrap() == 3
    assert calls == ["app", "router"]
    calls.clear()
    await app.publish(Added(3))
    assert calls == ["app", "router", "first", "app", "second"]


def test_including_a_second_handler_is_refused() -> None:
    app = Mediator()
    app.add_handler(Add, Adder)
    router = Router()
    router.add_handler(Add, OtherAdder)
    with pytest.raises(DuplicateHandlerError, match=r"Adder\.handle"):
        app.include(router)


async def test_a_router_that_is_included_on_two_ways_runs_its_handlers_once() -> None:
    heard: list[int] = []
    shared, one, two, app = Router(), Router(), Router(), Mediator()
    shared.add_handler(Add, Adder)
    shared.handles(Added)(lambda event: heard.append(event.total))
    two.behavior(seeing := Seeing())
    for router in (one, two, one):
        router.include(shared)
        app.include(router)
    (await app.publish(Added(1))).unwrap()
    assert heard == [1]
    assert (await app.send(Add(1, 2))).unwrap() == 3
    assert seeing.seen == []  # the way on which it came first


class Seeing:
    """A behavior that tells what it saw."""

    def __init__(self) -> None:
        self.seen: list[object] = []

    async def __call__(self, message: Any, call_next: Any) -> Any:
        self.seen.append(message)
        return await call_next(message)


async def test_including_is_all_or_nothing() -> None:
    heard: list[int] = []
    router = Router()
    router.handles(Added)(lambda event: heard.append(event.total))
    router.add_handler(Add, OtherAdder)
    app = Mediator()
    app.add_handler(Add, Adder)
    with pytest.raises(DuplicateHandlerError):
        app.include(router)
    await app.publish(Added(1))
    assert (heard, list(app.registry.names.values())) == ([], [Add])


def hearing(heard: list[str], name: str) -> Any:
    async def hear(event: Added) -> None:
        heard.append(name)

    return hear


@pytest.mark.parametrize("layers", [0, 1, 2])
async def test_under_idempotency_each_handler_that_a_factory_made_runs_once(layers: int) -> None:
    once = Idempotency(key=lambda event: event.total)
    heard: list[str] = []
    app = Mediator()
    routers: list[Router] = [app] if layers == 0 else [Router(), Router()]
    for number, router in enumerate(routers):
        router.behavior(once)
        for name in "abc":
            router.handler(hearing(heard, f"{name}{number}"))
    outer = Router() if layers == 2 else app
    for router in routers if layers else []:
        outer.include(router)
    if layers == 2:
        app.include(outer)
    for _ in range(2):
        assert (await app.publish(Added(1))).is_success
    assert sorted(heard) == sorted(f"{name}{number}" for name in "abc" for number in range(len(routers)))


class Objects:
    async def __call__(self, event: Added) -> None: ...

    async def method(self, event: Added) -> None: ...


async def function(database: object, event: Added) -> None: ...


@pytest.mark.parametrize(
    ("handler", "name"),
    [
        (functools.partial(function, object()), "function"),
        (functools.partial(functools.partial(function), object()), "function"),
        (functools.wraps(function)(functools.partial(function, object())), "function"),
        (functools.partial(Objects().method), "Objects.method"),
        (Objects(), "Objects"),
        (Objects().method, "Objects.method"),
    ],
)
def test_a_handler_has_the_same_name_in_every_process(handler: Any, name: str) -> None:
    assert label(handler) == f"{__name__}.{name}"


class Noting:
    def __init__(self, name: str, calls: list[str]) -> None:
        self.name, self.calls = name, calls

    async def sending(self, message: Any, headers: dict[str, str], forward: Forward) -> Any:
        headers[self.name] = "1"
        self.calls.append(f"{self.name} sends")
        return await forward(message, headers)

    async def handling(self, message: Any, headers: Mapping[str, str], handle: Handle) -> CatgaResult[Any]:
        self.calls.append(f"{self.name} handles {sorted(headers)}")
        return await handle(message)


async def test_interceptors_stand_around_both_ends_the_first_outermost() -> None:
    calls: list[str] = []
    app = Mediator()
    app.add_handler(Add, Adder)
    app.use(Noting("a", calls))
    app.use(Noting("b", calls))
    assert (await app.send(Add(1, 2))).unwrap() == 3
    assert calls == ["a sends", "b sends", "a handles ['a', 'b']", "b handles ['a', 'b']"]


async def test_an_event_without_handlers_is_still_seen_by_the_sending_side() -> None:
    calls: list[str] = []
    app = Mediator()
    app.use(Noting("a", calls))
    assert (await app.publish(Added(1))).is_success
    assert calls == ["a sends"]


async def test_an_interceptor_that_raises_is_a_failure() -> None:
    class Broken(Noting):
        async def handling(self, message: Any, headers: Mapping[str, str], handle: Handle) -> CatgaResult[Any]:
            raise KeyError("broken")

    app = Mediator()
    app.add_handler(Add, Adder)
    app.use(Broken("x", []))
    result = await app.send(Add(1, 2))
    assert isinstance(result, Failure)
    assert result.error.details["type"] == "KeyError"


def test_check_names_what_is_wrong() -> None:
    @dataclass(frozen=True)
    class Lonely(Request[int]):
        pass

    @message(name="shared")
    @dataclass(frozen=True)
    class First(Event):
        pass

    @message(name="shared")
    @dataclass(frozen=True)
    class Second(Event):
        pass

    @dataclass(frozen=True)
    class Stuck(Event):
        lock: asyncio.Lock

    module = ModuleType("orders")
    for cls in (Lonely, First, Second, Stuck):
        cls.__module__ = "orders"
        setattr(module, cls.__name__, cls)
    problems = Mediator().check(module)
    assert [(p.kind, p.name.rpartition(".")[2]) for p in problems] == [
        ("no handler", "Lonely"),
        ("duplicate name", "shared"),
        ("cannot travel", "Stuck"),
    ]
    assert all(str(p) for p in problems)


def test_check_of_a_sound_mediator_is_empty() -> None:
    app = Mediator()
    app.add_handler(Add, Adder)
    assert app.check(Add, Added) == []


def test_check_finds_an_event_of_which_only_the_base_has_a_handler() -> None:
    @dataclass(frozen=True)
    class AddedTwice(Added):
        pass

    app = Mediator()
    app.handles(Added)(lambda _: None)
    assert [(p.kind, "its base" in p.text) for p in app.check(AddedTwice)] == [("no handler", True)]
    app.handles(AddedTwice)(lambda _: None)
    assert app.check(AddedTwice) == []
