"""A registration is all or nothing, and what could never work is refused where it is written."""

import asyncio
import functools
import sys
import types
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from failures import Ask, Asked

from catga import CatgaError, Event, Mediator, Request, add_cluster, message
from catga.abc import Interceptor
from catga.cluster.stats import NodeStats, Stats
from catga.codec import Codec
from catga.errors import ClosedError, DuplicateHandlerError, InvalidMessageError
from catga.mediator import Router
from catga.mediator.behaviors import Logging
from catga.testing.contract import words
from catga.testing.waiting import eventually


@dataclass(frozen=True)
class Unknown(Request[int]):
    field: "NowhereDefined"  # type: ignore[name-defined]  # noqa: F821


async def takes_nothing() -> int:
    return 1


async def takes_an_ask(ask: Ask) -> int:
    return ask.number


async def takes_two(ask: Ask, more: int) -> int:
    return 1


class Depends:
    """As of a framework."""


async def takes_a_dependency(ask: Ask, more: object = Depends()) -> int:
    return 1


async def takes_it_by_keyword(*, ask: Ask) -> int:
    return 1


async def needs_a_keyword(ask: Ask, *, more: int) -> int:
    return 1


async def generates(ask: Ask) -> AsyncIterator[int]:
    yield 1


def generates_plainly(asked: Asked) -> Iterator[None]:
    yield


class Handlers:
    async def ask(self, ask: Ask) -> int:
        return ask.number


class HandlerClass:
    async def handle(self, ask: Ask) -> int:
        return ask.number


class NeedsMore:
    def __init__(self, asked: Asked, more: int) -> None: ...


REFUSED: dict[str, tuple[Callable[..., Any], str]] = {
    "no parameter": (takes_nothing, "has no parameter"),
    "two parameters": (takes_two, "parameters besides the message"),
    "a default that a framework would fill in": (takes_a_dependency, r"functools\.partial"),
    "the message by keyword": (takes_it_by_keyword, "has no parameter"),
    "another keyword": (needs_a_keyword, "besides the message"),
    "an async generator": (generates, "yield"),
    "a generator": (generates_plainly, "yield"),
    "a method": (Handlers.ask, "it is a method"),
    "a handler class": (HandlerClass, r"is a class: register it by add_handler\(Message, HandlerClass\)"),
    "a class that needs more": (NeedsMore, "parameters besides the message"),
    "an object that cannot be called": (HandlerClass(), "cannot be called"),  # type: ignore[dict-item]
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_handler_that_could_never_be_called_is_refused(name: str) -> None:
    handler, text = REFUSED[name]
    app = Mediator()
    for register in (app.handler, app.handles(Ask), app.handles(Asked)):
        with pytest.raises(InvalidMessageError, match=text):
            register(handler)
    assert app.registry.names == {}


def handle(kind: str) -> type:
    """A handler class whose method is of a kind that could never be called with a message."""

    async def more(self: Any, ask: Ask, more: int) -> int:
        return 1

    async def nothing(self: Any) -> int:
        return 1

    async def by_keyword(self: Any, *, ask: Ask) -> int:
        return 1

    async def generates(self: Any, ask: Ask) -> AsyncIterator[int]:
        yield 1

    return type("Class", (), {"handle": locals()[kind]})


@pytest.mark.parametrize("kind", ["more", "nothing", "by_keyword", "generates"])
def test_a_handler_class_whose_method_could_never_be_called_is_refused(kind: str) -> None:
    app = Mediator()
    with pytest.raises(InvalidMessageError, match=r"parameter|yield"):
        app.add_handler(Ask, handle(kind))
    assert app.registry.names == {}


async def test_a_handler_class_may_have_a_static_method() -> None:
    class Static:
        @staticmethod
        async def handle(ask: Ask) -> int:
            return ask.number

    app = Mediator()
    app.add_handler(Ask, Static)
    assert (await app.send(Ask(4))).unwrap() == 4


async def test_whatever_can_be_called_with_a_message_is_taken() -> None:
    class Callable:
        async def __call__(self, ask: Ask) -> int:
            return ask.number

    async def more(ask: Ask, *, factor: int = 1) -> int:
        return factor * ask.number

    async def anything(*args: Any) -> int:
        return int(args[0].number)

    async def optional(ask: Ask, factor: int = 1) -> int:
        return factor * ask.number

    async def needs(ask: Ask, *, factor: int) -> int:
        return factor * ask.number

    @functools.wraps(needs)
    async def injected(*args: Any, **others: Any) -> int:
        return await needs(*args, **others, factor=1)

    kinds: list[Any] = [
        Handlers().ask,
        Callable(),
        more,
        functools.partial(more, factor=1),
        anything,
        optional,
        injected,
    ]
    kinds.append(lambda ask: ask.number)
    for handler in kinds:
        app = Mediator()
        app.handles(Ask)(handler)
        assert (await app.send(Ask(4))).unwrap() == 4


@pytest.mark.parametrize("cls", [Event, Request, int, Request[int]])
def test_what_is_no_class_of_messages_is_refused(cls: Any) -> None:
    with pytest.raises(InvalidMessageError, match="is no message"):
        Mediator().handles(cls)(lambda _: None)


@pytest.mark.parametrize(
    ("named", "text"),
    [
        (takes_nothing, "@app.handler"),
        (Ask(1), "name its class, Ask"),
        ("Ask", "name a message class"),
        ([Ask], "name a message class"),
        (Ask | Asked, "name a message class"),
    ],
)
def test_handles_names_a_class_or_is_refused_before_it_decorates_anything(named: Any, text: str) -> None:
    with pytest.raises(InvalidMessageError, match=f"is no message class.*{text}"):
        Mediator().handles(named)


def test_a_class_that_is_a_request_and_an_event_is_refused() -> None:
    class Both(Request[int], Event):
        pass

    with pytest.raises(InvalidMessageError, match="a request and an event"):
        Mediator().handles(Both)(lambda _: 1)


@pytest.mark.parametrize("only", ["Ask", Request[int], [Ask, "Asked"], 3])
def test_a_behavior_for_what_is_no_class_is_refused(only: Any) -> None:
    with pytest.raises(TypeError, match="is no class"):
        Mediator().behavior(only=only)


async def test_a_behavior_may_be_for_a_list_of_classes() -> None:
    app, seen = Mediator(), list[object]()

    @app.behavior(only=[Ask])
    async def see(message: Any, call_next: Any) -> Any:
        seen.append(message)
        return await call_next(message)

    app.handles(Ask)(lambda ask: ask.number)
    app.handles(Asked)(lambda _: None)
    await app.send(Ask())
    await app.publish(Asked())
    assert seen == [Ask()]


def test_what_is_no_behavior_or_no_interceptor_is_refused() -> None:
    with pytest.raises(TypeError, match="is no behavior"):
        Mediator().behavior(object())  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="behavior"):
        Mediator().use(Logging())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="is a class"):
        Mediator().use(Interceptor)  # type: ignore[arg-type]


async def behaves_with_a_yield(message: Any, call_next: Any) -> AsyncIterator[Any]:
    yield await call_next(message)


@pytest.mark.parametrize(
    ("behavior", "text"),
    [
        (Logging, "but a class: give an object"),
        (Ask, "but a class: limit a behavior by only="),
        (takes_nothing, r"does not take \(message, call_next\)"),
        (lambda message: message, r"does not take \(message, call_next\)"),
        (lambda message, call_next, more: message, r"does not take \(message, call_next\)"),
        (behaves_with_a_yield, "yield"),
    ],
)
def test_what_cannot_be_called_as_a_behavior_is_refused(behavior: Any, text: str) -> None:
    for register in (Mediator().behavior, Mediator().behavior(only=Ask)):
        with pytest.raises(TypeError, match=f"is no behavior.*{text}"):
            register(behavior)


def test_an_included_router_takes_nothing_that_would_be_lost() -> None:
    router, app, other = Router(), Mediator(), Router()
    other.handles(Asked)(lambda _: None)
    router.handler(handler := takes_an_ask)
    app.include(router)
    app.include(router)
    router.handler(handler)  # it has that one
    for late in (
        lambda: router.handles(Asked)(lambda _: None),
        lambda: router.add_handler(Asked, HandlerClass),
        lambda: router.behavior(Logging()),
        lambda: router.include(other),
    ):
        with pytest.raises(ClosedError, match="included already"):
            late()
    assert list(router.registry.names.values()) == [Ask]


async def test_a_mediator_that_was_included_goes_on_for_itself() -> None:
    app, included = Mediator(), Mediator()
    app.include(included)

    @included.handler
    async def ask(ask: Ask) -> int:
        return ask.number

    assert (await included.send(Ask())).unwrap() == 1


@pytest.mark.parametrize("what", [Router, sys])
def test_what_is_no_other_router_is_not_included(what: Any) -> None:
    app = Mediator()
    for wrong in (what, app):
        with pytest.raises(TypeError, match="takes another Router"):
            app.include(wrong)


async def test_one_that_cannot_travel_is_refused_by_a_running_node_and_spoils_nothing() -> None:
    url, app = f"memory://{uuid.uuid4().hex}", Mediator()
    async with add_cluster(app, url, node_id="worker"), add_cluster(Mediator(), url, node_id="caller") as caller:
        with pytest.raises(InvalidMessageError, match="NowhereDefined"):
            app.handles(Unknown)(lambda _: 1)
        assert app.registry.names == {}
        app.handles(Ask)(lambda ask: ask.number)
        await eventually(lambda: app.registry.names.keys() <= {*caller.get_nodes()[1].handles})
        assert (await caller.send(Ask(3))).unwrap() == 3
    app.handles(Unknown)(lambda _: 1)  # in one process it may run


def test_two_error_classes_with_one_code_are_refused() -> None:
    with pytest.raises(TypeError, match=r"of <class 'catga\.errors\.HandlerError'>"):

        class MyError(CatgaError):
            code = "handler_error"


@pytest.mark.parametrize("code", ["catga", "timeout"])
def test_the_code_of_an_error_of_ours_is_taken(code: str) -> None:
    with pytest.raises(TypeError, match="each error class needs one of its own"):
        type("MyError", (CatgaError,), {"code": code})
    assert type(CatgaError.rebuild("catga", "", {})) is CatgaError


def test_an_error_class_may_be_defined_again() -> None:
    """A module is loaded again, a notebook's cell runs again, a script is imported as well."""
    names: dict[str, Any] = {"CatgaError": CatgaError, "__name__": "shop"}
    for name in ("shop", "shop", "__main__"):
        names["__name__"] = name
        exec("class SoldOut(CatgaError): code = 'shop.sold_out'", names)  # noqa: S102
    assert CatgaError.rebuild("shop.sold_out", "", {}).__class__ is names["SoldOut"]


def stats_of(module: str) -> type:
    return types.new_class("Stats", (Request[int],), exec_body=lambda names: names.update(__module__=module))


def test_a_wire_name_of_catgas_own_is_refused_when_the_class_is_made() -> None:
    with pytest.raises(InvalidMessageError, match=r"'catga\.Stats' of .* is catga's own.*name=\"shop\.Stats\""):
        message(name="catga.Stats")(stats_of("shop"))
    message(name="catgatory.Stats")(stats_of("shop"))
    message(name="shop.catga.Stats")(stats_of("shop"))


@pytest.mark.parametrize("register", [lambda app, cls: app.handles(cls)(lambda _: 1), lambda app, cls: Codec(cls)])
def test_a_wire_name_of_catgas_own_is_refused_wherever_it_comes_from(register: Any) -> None:
    """A module, or a script, with the name of ours."""
    with pytest.raises(InvalidMessageError, match=r"'catga\.Stats' of .* is catga's own"):
        register(Mediator(), stats_of("catga"))


def test_a_handler_for_what_each_node_answers_itself_is_refused() -> None:
    app = Mediator()
    with pytest.raises(InvalidMessageError, match="is built in"):
        app.handles(Stats)(lambda _: NodeStats(node_id="mine"))
    with pytest.raises(InvalidMessageError, match="is built in"):
        app.add_handler(Stats, HandlerClass)


async def test_catgas_own_messages_are_none_that_are_refused() -> None:
    app = Mediator()
    app.handles(words.Whoami)(lambda _: "me")
    async with add_cluster(app, f"memory://{uuid.uuid4().hex}", node_id="worker") as node:
        assert (await node.send_to_node(Stats(), "worker")).unwrap().node_id == "worker"


def test_a_class_that_is_defined_twice_is_told_as_that() -> None:
    module = types.ModuleType("twice")
    sys.modules["twice"] = module
    text = "from catga import Event, Request\nclass Ask(Request[int]): pass\nclass Asked(Event): pass"
    try:
        exec(text, module.__dict__)  # noqa: S102
        first, first_event = module.Ask, module.Asked
        exec(text, module.__dict__)  # noqa: S102
    finally:
        del sys.modules["twice"]
    app = Mediator()
    app.handles(first)(lambda _: 1)
    with pytest.raises(DuplicateHandlerError, match=r"two message classes have the wire name 'twice\.Ask'"):
        app.handles(module.Ask)(lambda _: 1)
    found = asyncio.run(app.send(module.Ask()))
    assert "is defined twice" in str(found.error)  # type: ignore[union-attr]
    assert asyncio.run(app.publish(module.Asked())).is_success
    app.handles(first_event)(lambda _: None)
    lost = asyncio.run(app.publish(module.Asked()))
    assert "is defined twice" in str(lost.error)  # type: ignore[union-attr]


async def test_handlers_that_are_only_equal_are_two() -> None:
    heard: list[str] = []

    @dataclass
    class Hearing:
        async def __call__(self, asked: Asked) -> None:
            heard.append("x")

    app = Mediator()
    app.handles(Asked)(Hearing())
    app.handles(Asked)(Hearing())
    (await app.publish(Asked())).unwrap()
    assert heard == ["x", "x"]
