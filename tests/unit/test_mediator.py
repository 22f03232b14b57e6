"""The mediator in one process."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from catga import CatgaResult, Event, Failure, Mediator, Request, Success
from catga.errors import (
    CatgaError,
    DuplicateHandlerError,
    HandlerError,
    HandlerNotFoundError,
    InvalidMessageError,
    OverloadedError,
)


@dataclass(frozen=True)
class Double(Request[int]):
    number: int


@dataclass(frozen=True)
class Doubled(Event):
    number: int


@dataclass(frozen=True)
class Dobble(Request[int]):
    number: int


@pytest.fixture
def app() -> Mediator:
    return Mediator()


class TestRegistration:
    def test_a_second_handler_of_a_request_is_refused(self, app: Mediator) -> None:
        @app.handler
        async def first(request: Double) -> int:
            return 1

        with pytest.raises(DuplicateHandlerError, match="first already: a request has exactly one handler"):

            @app.handler
            async def second(request: Double) -> int:
                return 2

    def test_two_classes_of_one_wire_name_are_refused(self, app: Mediator) -> None:
        def make() -> type[Event]:
            @dataclass
            class Same(Event):
                pass

            return Same

        app.handles(make())(lambda _: None)
        with pytest.raises(DuplicateHandlerError, match="two message classes"):
            app.handles(make())(lambda _: None)

    @pytest.mark.parametrize("annotation", [int, "int", None, "Missing", Any])
    def test_a_handler_annotates_a_message(self, app: Mediator, annotation: Any) -> None:
        def handler(request: Any) -> None: ...

        handler.__annotations__["request"] = annotation
        with pytest.raises(InvalidMessageError):
            app.handler(handler)

    def test_a_handler_without_parameters_is_refused(self, app: Mediator) -> None:
        with pytest.raises(InvalidMessageError, match="has no parameter for the message"):
            app.handler(lambda: None)

    def test_handles_wants_a_message_class(self, app: Mediator) -> None:
        with pytest.raises(InvalidMessageError, match=r"derive a class from Request\[R\] or Event"):
            app.handles(int)(lambda _: None)

    async def test_annotations_may_be_strings_and_local_classes(self, app: Mediator) -> None:
        @dataclass
        class Local(Request[str]):
            pass

        @app.handler
        async def handle(request: "Local") -> "str":
            return "local"

        assert (await app.send(Local())).unwrap() == "local"

    async def test_a_method_and_a_callable_object_are_handlers(self, app: Mediator) -> None:
        class Service:
            async def double(self, request: Double) -> int:
                return request.number * 2

            async def __call__(self, event: Doubled) -> None:
                self.seen = event.number

        service = Service()
        app.handler(service.double)
        app.handler(service)
        assert (await app.send(Double(4))).unwrap() == 8
        assert (await app.publish(Doubled(5))).is_success
        assert service.seen == 5

    async def test_a_handler_added_later_is_used(self, app: Mediator) -> None:
        assert isinstance((await app.send(Double(1))).error, HandlerNotFoundError)  # type: ignore[union-attr]
        app.handles(Double)(lambda request: request.number)
        assert (await app.send(Double(1))).unwrap() == 1


class TestSend:
    @pytest.mark.parametrize("is_async", [True, False])
    @pytest.mark.parametrize("wrapped", [True, False])
    async def test_plain_values_and_results_are_answers(self, app: Mediator, is_async: bool, wrapped: bool) -> None:
        def handle(request: Double) -> CatgaResult[int]:
            value: Any = request.number * 2
            return Success(value) if wrapped else value

        async def handle_async(request: Double) -> CatgaResult[int]:
            return handle(request)

        app.handler(handle_async if is_async else handle)
        assert (await app.send(Double(4))) == Success(8)

    @pytest.mark.parametrize("is_async", [True, False])
    async def test_a_returned_failure_is_the_failure(self, app: Mediator, is_async: bool) -> None:
        error = OverloadedError("later")

        def handle(request: Double) -> CatgaResult[int]:
            return Failure(error)

        async def handle_async(request: Double) -> CatgaResult[int]:
            return Failure(error)

        app.handler(handle_async if is_async else handle)
        assert (await app.send(Double(4))).error is error  # type: ignore[union-attr]

    @pytest.mark.parametrize("is_async", [True, False])
    async def test_what_a_handler_raises_is_told_and_kept(self, app: Mediator, is_async: bool) -> None:
        def handle(request: Double) -> int:
            raise KeyError("sku")

        async def handle_async(request: Double) -> int:
            raise KeyError("sku")

        app.handler(handle_async if is_async else handle)
        result = await app.send(Double(4))
        assert isinstance(result, Failure)
        assert isinstance(result.error, HandlerError)
        assert result.error.details == {"type": "KeyError", "message": "'sku'"}
        assert isinstance(result.error.__cause__, KeyError)

    async def test_an_error_of_the_tree_is_not_wrapped(self, app: Mediator) -> None:
        error = CatgaError("mine")

        @app.handler
        async def handle(request: Double) -> int:
            raise error

        assert (await app.send(Double(4))).error is error  # type: ignore[union-attr]

    async def test_nobody_handles_it_but_something_like_it(self, app: Mediator) -> None:
        app.handles(Double)(lambda request: request.number)
        error = (await app.send(Dobble(1))).error  # type: ignore[union-attr]
        assert isinstance(error, HandlerNotFoundError)
        assert error.details["near"] == [f"{__name__}.Double"]

    async def test_what_is_no_message_is_a_failure(self, app: Mediator) -> None:
        result: Any = await app.send("text")  # type: ignore[arg-type]
        assert isinstance(result.error, InvalidMessageError)

    async def test_cancellation_goes_through(self, app: Mediator) -> None:
        started = asyncio.Event()

        @app.handler
        async def handle(request: Double) -> int:
            started.set()
            await asyncio.Event().wait()
            return 1

        task = asyncio.create_task(app.send(Double(1)))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


class TestPublish:
    async def test_every_handler_runs_in_order_whatever_fails(self, app: Mediator) -> None:
        ran: list[str] = []

        @app.handler
        def first(event: Doubled) -> None:
            ran.append("first")
            raise ValueError("one")

        @app.handler
        async def second(event: Doubled) -> None:
            ran.append("second")

        @app.handler
        async def third(event: Doubled) -> None:
            ran.append("third")
            raise ValueError("two")

        error = (await app.publish(Doubled(1))).error  # type: ignore[union-attr]
        assert ran == ["first", "second", "third"]
        assert isinstance(error, HandlerError)
        assert "2 handlers failed" in error.message
        assert len(error.details["failures"]) == 2

    async def test_one_failure_is_itself(self, app: Mediator) -> None:
        def handle(event: Doubled) -> None:
            raise ValueError("one")

        app.handler(handle)
        error = (await app.publish(Doubled(1))).error  # type: ignore[union-attr]
        assert error.details == {"type": "ValueError", "message": "one"}

    async def test_no_handler_is_no_error(self, app: Mediator) -> None:
        assert (await app.publish(Doubled(1))) == Success(None)

    async def test_a_batch_tells_which_of_its_events_failed(self, app: Mediator) -> None:
        @app.handler
        def handle(event: Doubled) -> None:
            if event.number > 3:
                raise ValueError(event.number)

        assert (await app.publish_batch(Doubled(n) for n in range(3))).is_success
        error = (await app.publish_batch(Doubled(n) for n in range(9))).error  # type: ignore[union-attr]
        assert error.message == "5 of 9 events failed, the first one with: ValueError: 4"
        assert list(error.details["failed"]) == ["4", "5", "6", "7", "8"]
        assert error.details["failed"]["4"] == {
            "code": "handler_error",
            "message": "ValueError: 4",
            "execution": "answered",
        }


class TestBehaviors:
    @pytest.mark.parametrize("is_async", [True, False])
    async def test_the_first_is_outermost_and_each_may_change_both_ways(self, app: Mediator, is_async: bool) -> None:
        seen: list[str] = []

        def step(name: str) -> Any:
            async def behavior(message: Any, call_next: Callable[[Any], Awaitable[Any]]) -> Any:
                seen.append(f"{name} in")
                value = await call_next(Double(message.number + 1))
                seen.append(f"{name} out")
                return value + 100

            return behavior

        app.behavior(step("outer"))
        app.behavior(step("inner"))

        async def handle(request: Double) -> int:
            return request.number

        app.handles(Double)(handle if is_async else lambda request: request.number)
        assert (await app.send(Double(1))).unwrap() == 203
        assert seen == ["outer in", "inner in", "inner out", "outer out"]

    async def test_only_limits_it_to_classes_and_their_subclasses(self, app: Mediator) -> None:
        seen: list[object] = []

        class Louder(Double):
            pass

        @app.behavior(only=Double)
        async def note(message: Any, call_next: Callable[[Any], Awaitable[Any]]) -> Any:
            seen.append(type(message))
            return await call_next(message)

        app.handles(Double)(lambda request: 1)
        app.handles(Louder)(lambda request: 1)
        app.handles(Dobble)(lambda request: 1)
        for request in (Double(1), Louder(1), Dobble(1)):
            await app.send(request)
        assert seen == [Double, Louder]

    async def test_limited_to_no_class_it_stands_around_none(self, app: Mediator) -> None:
        @app.behavior(only=())
        async def refuse(message: Any, call_next: Callable[[Any], Awaitable[Any]]) -> Any:
            raise ValueError(message)

        app.handles(Double)(lambda request: 2 * request.number)
        assert (await app.send(Double(2))).unwrap() == 4

    async def test_it_may_refuse_and_repeat(self, app: Mediator) -> None:
        calls = 0

        @app.behavior
        async def twice(message: Any, call_next: Callable[[Any], Awaitable[Any]]) -> Any:
            if message.number < 0:
                raise InvalidMessageError("negative")
            return [await call_next(message), await call_next(message)][-1]

        @app.handler
        def handle(request: Double) -> int:
            nonlocal calls
            calls += 1
            return calls

        assert (await app.send(Double(1))).unwrap() == 2
        assert isinstance((await app.send(Double(-1))).error, InvalidMessageError)  # type: ignore[union-attr]

    async def test_it_is_around_each_handler_of_an_event(self, app: Mediator) -> None:
        seen: list[int] = []

        @app.behavior
        async def note(message: Any, call_next: Callable[[Any], Awaitable[Any]]) -> Any:
            seen.append(message.number)
            return await call_next(message)

        app.handles(Doubled)(lambda event: None)
        app.handles(Doubled)(lambda event: None)
        await app.publish(Doubled(7))
        assert seen == [7, 7]


class Gate:
    """A handler that counts how many calls are in it."""

    def __init__(self, app: Mediator) -> None:
        self.now = self.most = 0
        self.started: list[int] = []

        @app.handler
        async def handle(request: Double) -> int:
            self.started.append(request.number)
            self.now += 1
            self.most = max(self.most, self.now)
            try:
                for _ in range(1 + request.number % 5):
                    await asyncio.sleep(0)
            finally:
                self.now -= 1
            return request.number * 2


class TestMany:
    @pytest.mark.parametrize("concurrency", [1, 3, 1000])
    async def test_a_batch_keeps_the_order_and_the_bound(self, app: Mediator, concurrency: int) -> None:
        gate = Gate(app)
        results = await app.send_batch([Double(n) for n in range(50)], concurrency=concurrency)
        assert [r.unwrap() for r in results] == [2 * n for n in range(50)]
        assert gate.most == min(concurrency, 50)

    async def test_an_empty_batch_is_empty(self, app: Mediator) -> None:
        assert await app.send_batch([]) == []

    @pytest.mark.parametrize("is_async", [True, False])
    async def test_a_stream_keeps_the_order_and_the_bound(self, app: Mediator, is_async: bool) -> None:
        gate = Gate(app)

        async def requests() -> AsyncIterator[Double]:
            for n in range(50):
                yield Double(n)

        stream = app.send_stream(requests() if is_async else [Double(n) for n in range(50)], concurrency=4)
        assert [r.unwrap() async for r in stream] == [2 * n for n in range(50)]
        assert gate.most <= 4

    async def test_a_stream_reads_no_further_than_its_reader(self, app: Mediator) -> None:
        gate = Gate(app)
        stream: Any = app.send_stream((Double(n) for n in range(1000)), concurrency=4)
        await anext(stream)
        assert len(gate.started) <= 5
        await stream.aclose()

    async def test_a_stream_that_is_left_cancels_what_runs(self, app: Mediator) -> None:
        gate = Gate(app)
        stream: Any = app.send_stream((Double(4) for _ in range(1000)), concurrency=8)
        await anext(stream)
        await stream.aclose()
        for _ in range(3):
            await asyncio.sleep(0)
        assert gate.now == 0

    @pytest.mark.parametrize("concurrency", [0, -1])
    async def test_at_least_one_call_may_run(self, app: Mediator, concurrency: int) -> None:
        with pytest.raises(ValueError, match="at least 1"):
            await app.send_batch([], concurrency=concurrency)
        with pytest.raises(ValueError, match="at least 1"):
            async for _ in app.send_stream([], concurrency=concurrency):
                pass


async def test_a_handler_that_raises_key_error_runs_once_even_if_handlers_change_meanwhile() -> None:
    mediator, runs = Mediator(), 0

    @mediator.handler
    async def lost(request: Lost) -> int:
        nonlocal runs
        runs += 1
        if runs == 2:
            mediator.handler(other)  # what was compiled is forgotten
        raise KeyError(Lost)

    async def other(event: Changed) -> None: ...

    for _ in range(2):
        result = await mediator.send(Lost())
        assert isinstance(result, Failure)
        assert isinstance(result.error, HandlerError)
    assert runs == 2


class Lost(Request[int]):
    pass


class Changed(Event):
    pass
