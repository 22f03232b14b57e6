"""Whatever a handler returns, and however it ends, its caller gets the value or the failure."""

import asyncio
import functools
import importlib
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

import pytest

from catga import CatgaError, CatgaResult, Event, Failure, Mediator, Request, Success
from catga.abc import Handle
from catga.errors import HandlerError
from catga.mediator import Router
from catga.mediator.behaviors import Retry


@dataclass(frozen=True)
class Ask(Request[int]):
    number: int


@dataclass(frozen=True)
class Asked(Event):
    number: int


class Loose(Protocol):
    """What a result is, too."""


@pytest.fixture
def app() -> Mediator:
    return Mediator()


async def wait_for_what_is_cancelled() -> None:
    task = asyncio.ensure_future(asyncio.Event().wait())
    task.cancel()
    await task


class TestOwnCancellation:
    """A handler that awaits something that was cancelled has failed; nobody cancelled its caller."""

    @pytest.fixture
    def app(self, app: Mediator) -> Mediator:
        @app.handler
        async def ask(ask: Ask) -> int:
            if ask.number == 1:
                await wait_for_what_is_cancelled()
            return ask.number

        return app

    async def test_is_a_failure(self, app: Mediator) -> None:
        result = await app.send(Ask(1))
        assert isinstance(result, Failure)
        assert isinstance(result.error, HandlerError)
        assert result.error.details["type"] == "CancelledError"

    @pytest.mark.parametrize("concurrency", [1, 2, 8])
    async def test_keeps_no_other_request_of_a_batch_from_running(self, app: Mediator, concurrency: int) -> None:
        results = await app.send_batch([Ask(n) for n in range(5)], concurrency=concurrency)
        assert [isinstance(result, Success) for result in results] == [True, False, True, True, True]

    async def test_of_an_interceptor_keeps_no_other_request_of_a_batch_from_running(self, app: Mediator) -> None:
        class Cancelled:
            async def sending(self, message: Any, headers: dict[str, str], forward: Callable[..., Any]) -> Any:
                if message.number == 3:
                    await wait_for_what_is_cancelled()
                return await forward(message, headers)

            async def handling(self, message: Any, headers: Mapping[str, str], handle: Handle) -> CatgaResult[Any]:
                if message.number == 2:
                    await wait_for_what_is_cancelled()
                return await handle(message)

        app.use(Cancelled())
        results = await app.send_batch([Ask(n) for n in range(5)], concurrency=1)
        assert [isinstance(result, Success) for result in results] == [True, False, False, False, True]

    @pytest.mark.parametrize("is_batch", [False, True])
    async def test_keeps_no_other_handler_of_an_event_from_running(self, app: Mediator, is_batch: bool) -> None:
        heard: list[int] = []

        @app.handler
        async def first(event: Asked) -> None:
            await wait_for_what_is_cancelled()

        @app.handler
        async def second(event: Asked) -> None:
            heard.append(event.number)

        result = await (app.publish_batch([Asked(7)]) if is_batch else app.publish(Asked(7)))
        assert isinstance(result, Failure)
        assert heard == [7]

    async def test_its_callers_own_goes_through(self, app: Mediator) -> None:
        started = asyncio.Event()

        @app.handler
        async def hang(event: Asked) -> None:
            started.set()
            await asyncio.Event().wait()

        publishing = asyncio.create_task(app.publish(Asked(1)))
        await started.wait()
        publishing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await publishing


async def answer(ask: Ask) -> int:
    return ask.number


def untyped(function: Any) -> Any:
    def call(message):  # type: ignore[no-untyped-def]
        return function(message)

    return call


def any_typed(function: Any) -> Any:
    def call(message: Ask) -> Any:
        return function(message)

    return call


def awaitable_typed(function: Any) -> Any:
    def call(message: Ask) -> Awaitable[int]:
        return function(message)  # type: ignore[no-any-return]

    return call


def coroutine_typed(function: Any) -> Any:
    def call(message: Ask) -> "Coroutine[Any, Any, int]":
        return function(message)  # type: ignore[no-any-return]

    return call


def protocol_typed(function: Any) -> Any:
    def call(message: Ask) -> Loose:
        return function(message)  # type: ignore[no-any-return]

    return call


def annotated(function: Any) -> Any:
    def call(message: Ask) -> Annotated[CatgaResult[int] | Awaitable[int], "whichever"]:
        return function(message)  # type: ignore[no-any-return]

    return call


def wrapping(function: Any) -> Any:
    @functools.wraps(function)
    def call(message: Ask) -> Any:
        return function(message)

    return call


class Callable_:
    def __init__(self, function: Any) -> None:
        self.function = function

    def __call__(self, message: Ask) -> Any:
        return self.function(message)


WAYS = [untyped, any_typed, awaitable_typed, coroutine_typed, protocol_typed, annotated, wrapping, Callable_]
WAYS += [functools.partial(functools.partial, lambda function, message: function(message))]


@pytest.mark.parametrize("way", WAYS)
class TestPlainFunctions:
    async def test_what_they_return_is_awaited(self, app: Mediator, way: Any) -> None:
        app.handles(Ask)(way(answer))
        assert await app.send(Ask(3)) == Success(3)

    async def test_what_they_return_is_awaited_for_an_event(self, app: Mediator, way: Any) -> None:
        heard: list[int] = []

        async def hear(event: Asked) -> None:
            heard.append(event.number)

        app.handles(Asked)(way(hear))
        assert await app.publish(Asked(3)) == Success(None)
        assert heard == [3]

    async def test_a_failure_that_they_return_is_the_failure(self, app: Mediator, way: Any) -> None:
        app.handles(Ask)(way(lambda ask: Failure(CatgaError("sold out"))))
        result = await app.send(Ask(3))
        assert isinstance(result, Failure)
        assert result.error.message == "sold out"

    async def test_a_failure_that_they_return_is_the_failure_of_an_event(self, app: Mediator, way: Any) -> None:
        heard: list[int] = []
        app.handles(Asked)(way(lambda event: Failure(CatgaError("sold out"))))
        app.handles(Asked)(way(lambda event: heard.append(event.number)))
        result = await app.publish(Asked(3))
        assert isinstance(result, Failure)
        assert (result.error.message, heard) == ("sold out", [3])

    async def test_a_failure_that_they_let_await_is_the_failure(self, app: Mediator, way: Any) -> None:
        async def refuse(ask: Ask) -> Any:
            return Failure(CatgaError("sold out"))

        app.handles(Ask)(way(refuse))
        result = await app.send(Ask(3))
        assert isinstance(result, Failure)
        assert result.error.message == "sold out"


async def test_what_an_event_handler_returns_is_seen_by_behaviors_as_raised(app: Mediator) -> None:
    attempts = [Failure(CatgaError("not yet")), Success(None)]
    app.behavior(Retry(2, base=0.0, on=CatgaError))

    @app.handler
    async def hear(event: Asked) -> CatgaResult[None]:
        return attempts.pop(0)

    assert await app.publish(Asked(1)) == Success(None)
    assert attempts == []


@pytest.mark.parametrize("way", WAYS)
async def test_handlers_of_a_router_may_return_the_same(app: Mediator, way: Any) -> None:
    seen: list[Any] = []
    router = Router()

    @router.behavior
    async def see(message: Any, call_next: Callable[[Any], Awaitable[Any]]) -> Any:
        seen.append(await call_next(message))
        return seen[-1]

    router.handles(Ask)(way(answer))
    router.handles(Asked)(way(lambda event: Failure(CatgaError("sold out"))))
    app.include(router)
    assert await app.send(Ask(3)) == Success(3)
    assert isinstance(await app.publish(Asked(3)), Failure)
    assert seen == [3]


async def test_a_decorator_of_an_int_may_return_a_failure(app: Mediator) -> None:
    def safe(function: Callable[[Any], Awaitable[int]]) -> Callable[[Any], Awaitable[Any]]:
        @functools.wraps(function)
        async def call(message: Ask) -> Any:
            try:
                return await function(message)
            except ValueError as error:
                return Failure(CatgaError(str(error)))

        return call

    @app.handler
    @safe
    async def ask(ask: Ask) -> int:
        raise ValueError("sold out")

    result = await app.send(Ask(1))
    assert isinstance(result, Failure)
    assert result.error.message == "sold out"


ALIASED = """
from __future__ import annotations
from dataclasses import dataclass
from typing import TYPE_CHECKING
from catga import CatgaError, CatgaResult, Failure, Request
if TYPE_CHECKING:
    from catga import Failure as Unknown
@dataclass(frozen=True)
class Order(Request[int]):
    number: int
Answer = CatgaResult[int]
async def known(order: Order) -> Answer:
    return Failure(CatgaError("sold out"))
async def unknown(order: Order) -> Unknown[int]:
    return Failure(CatgaError("sold out"))
"""


@pytest.fixture
def orders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    (tmp_path / "orders_of_a_test.py").write_text(ALIASED)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("orders_of_a_test")
    del sys.modules["orders_of_a_test"]


@pytest.mark.parametrize("name", ["known", "unknown"])
async def test_an_annotation_under_another_name_may_be_a_result(app: Mediator, orders: Any, name: str) -> None:
    app.handler(getattr(orders, name))
    assert isinstance(await app.send(orders.Order(1)), Failure)


async def test_a_handler_of_another_module_takes_that_modules_message(app: Mediator, orders: Any) -> None:
    @dataclass
    class Order(Event):
        number: int

    app.handler(orders.known)
    assert list(app.registry.names.values()) == [orders.Order]
    assert Order is not orders.Order


# -- and what `check` says of the annotation ------------------------------------------------------------


class Number(Request[float]):
    pass


class Nothing(Request[None]):
    pass


class Some(Request[int | list[str] | None]):
    pass


def _annotated(cls: type, annotation: Any) -> Mediator:
    app = Mediator()

    def handle(request: Any) -> Any: ...

    handle.__annotations__.update({"request": cls, "return": annotation})
    app.handler(handle)
    return app


@pytest.mark.parametrize(
    ("cls", "annotation"),
    [(Number, str), (Number, None), (Number, "str"), (Nothing, int), (Some, str), (Some, dict[str, int])],
)
def test_check_finds_a_handler_whose_annotation_is_not_the_answer(cls: type, annotation: Any) -> None:
    (problem,) = [each for each in _annotated(cls, annotation).check() if each.kind == "wrong answer"]
    assert "handle returns" in problem.text
    assert f"{cls.__name__} is answered with" in problem.text


@pytest.mark.parametrize(
    ("cls", "annotation"),
    [
        *((Number, each) for each in (float, int, object, Any, "not.defined", CatgaResult[float], Awaitable[float])),
        *((Nothing, each) for each in (None, "None", Any)),
        *((Some, each) for each in (int, list[str], None, bool, Sequence[str], int | None)),
    ],
)
def test_check_takes_what_may_be_the_answer(cls: type, annotation: Any) -> None:
    assert [each for each in _annotated(cls, annotation).check() if each.kind == "wrong answer"] == []
