"""How handlers and behaviors fail."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from unittest.mock import ANY

from places import Table, failure, success

from catga import CatgaError, CatgaResult, Event, Failure, Mediator, Request, Success, message
from catga.abc import CallNext
from catga.errors import OverloadedError
from catga.mediator.behaviors import CircuitBreaker, Retry
from catga.mediator.router import Router

TABLE = Table()
means = TABLE.means


@dataclass(frozen=True)
class Ask(Request[int]):
    number: int = 1


@dataclass(frozen=True)
class Asked(Event):
    number: int = 1


@message(timeout=0.1)
@dataclass(frozen=True)
class Hurried(Request[int]):
    number: int = 1


@message(timeout=0.1)
@dataclass(frozen=True)
class HurriedEvent(Event):
    number: int = 1


class SoldOutError(CatgaError):
    code = "meaning.sold_out"


class Panic(BaseException):
    """As a native extension raises it."""


def answering(app: Mediator) -> list[int]:
    """Give `app` a handler that works. Returns what it ran for."""
    ran: list[int] = []

    @app.handler
    async def ask(ask: Ask) -> int:
        ran.append(ask.number)
        return ask.number

    return ran


# -- what handlers raise ------------------------------------------------------------------------------


@means(success(1))
def a_value_is_a_success(app: Mediator) -> Ask:
    answering(app)
    return Ask()


@means(failure("handler_error", "ValueError: no"))
def an_exception_is_a_handler_error(app: Mediator) -> Ask:
    @app.handler
    async def ask(ask: Ask) -> int:
        raise ValueError("no")

    return Ask()


@means(failure("handler_error", "ValueError: no"))
def an_exception_of_a_plain_function_is_a_handler_error(app: Mediator) -> Ask:
    @app.handler
    def ask(ask: Ask) -> int:
        raise ValueError("no")

    return Ask()


@means(failure("meaning.sold_out", "none left"))
def an_error_of_ones_own_is_the_answer(app: Mediator) -> Ask:
    @app.handler
    async def ask(ask: Ask) -> int:
        raise SoldOutError("none left")

    return Ask()


@means(failure("overloaded", "the bank is full"))
def a_refusal_that_a_handler_raises_is_its_answer_and_goes_nowhere_else(app: Mediator) -> Ask:
    @app.handler
    async def ask(ask: Ask) -> int:
        raise OverloadedError("the bank is full")

    return Ask()


@means(failure("handler_error", "failures.Panic: boom"))
def a_base_exception_is_a_handler_error(app: Mediator) -> Ask:
    @app.handler
    async def ask(ask: Ask) -> int:
        await asyncio.sleep(0)
        raise Panic("boom")

    return Ask()


@means(failure("handler_error", "failures.Panic: boom"))
def a_base_exception_of_a_plain_function_is_a_handler_error(app: Mediator) -> Ask:
    @app.handler
    def ask(ask: Ask) -> int:
        raise Panic("boom")

    return Ask()


@means(failure("handler_error", "failures.Panic: boom"))
def a_base_exception_inside_of_a_behavior_is_a_handler_error(app: Mediator) -> Ask:
    app.behavior(Retry(2))

    @app.handler
    async def ask(ask: Ask) -> int:
        raise Panic("boom")

    return Ask()


@means(failure("handler_error", "failures.Panic: boom"))
def a_base_exception_of_an_events_handler_is_a_handler_error(app: Mediator) -> Asked:
    @app.handler
    async def asked(asked: Asked) -> None:
        raise Panic("boom")

    return Asked()


@means(failure("handler_error", "CancelledError: the handler was cancelled"))
def a_cancellation_that_the_handler_made_itself_is_a_handler_error(app: Mediator) -> Ask:
    @app.handler
    async def ask(ask: Ask) -> int:
        task = asyncio.ensure_future(asyncio.Event().wait())
        task.cancel()
        await task
        return 1

    return Ask()


# -- what handlers return -----------------------------------------------------------------------------


@means(success(5))
def a_success_that_is_returned_is_unwrapped(app: Mediator) -> Ask:
    @app.handler
    async def ask(ask: Ask) -> CatgaResult[int]:
        return Success(5)

    return Ask()


@means(failure("meaning.sold_out", "none left"))
def a_failure_that_is_returned_is_the_failure(app: Mediator) -> Ask:
    @app.handler
    async def ask(ask: Ask) -> CatgaResult[int]:
        return Failure(SoldOutError("none left"))

    return Ask()


@means(failure("meaning.sold_out", "none left"))
def a_failure_that_is_returned_without_an_annotation_is_the_failure(app: Mediator) -> Ask:
    @app.handler
    async def ask(ask: Ask):  # type: ignore[no-untyped-def]
        return Failure(SoldOutError("none left"))

    return Ask()


@means(failure("meaning.sold_out", "none left"))
def a_failure_that_is_returned_against_the_annotation_is_the_failure(app: Mediator) -> Ask:
    @app.handler
    async def ask(ask: Ask) -> int:
        return Failure(SoldOutError("none left"))  # type: ignore[return-value]

    return Ask()


@means(failure("meaning.sold_out", "none left"))
def a_failure_that_a_plain_function_returns_against_its_annotation_is_the_failure(app: Mediator) -> Ask:
    @app.handler
    def ask(ask: Ask) -> int:
        return Failure(SoldOutError("none left"))  # type: ignore[return-value]

    return Ask()


@means(failure("meaning.sold_out", "none left"))
def a_failure_that_an_events_handler_returns_is_the_failure(app: Mediator) -> Asked:
    @app.handler
    async def asked(asked: Asked) -> CatgaResult[None]:
        return Failure(SoldOutError("none left"))

    return Asked()


# -- what behaviors do --------------------------------------------------------------------------------


@means(failure("meaning.sold_out", "none left"))
def a_failure_that_a_behavior_returns_is_the_failure(app: Mediator) -> Ask:
    @app.behavior
    async def refuse(message: Any, call_next: CallNext[Any, Any]) -> Any:
        return Failure(SoldOutError("none left"))

    answering(app)
    return Ask()


@means(success(5))
def a_success_that_a_behavior_returns_is_unwrapped(app: Mediator) -> Ask:
    @app.behavior
    async def instead(message, call_next):  # type: ignore[no-untyped-def]
        return Success(5)

    answering(app)
    return Ask()


@means(failure("meaning.sold_out", "none left"))
def a_failure_that_a_behavior_of_a_class_returns_is_the_failure(app: Mediator) -> Ask:
    class Guard:
        def __init__(self) -> None:
            self.answer = Failure(SoldOutError("none left"))

        async def __call__(self, message: Any, call_next: CallNext[Any, Any]) -> Any:
            return self.answer

    app.behavior(Guard())
    answering(app)
    return Ask()


@means(failure("meaning.sold_out", "none left"))
def a_failure_that_a_behavior_of_an_event_returns_is_the_failure(app: Mediator) -> Asked:
    @app.behavior
    async def refuse(message: Any, call_next: CallNext[Any, Any]) -> Any:
        return Failure(SoldOutError("none left"))

    @app.handler
    async def asked(asked: Asked) -> None: ...

    return Asked()


@means(success(7))
def a_failure_that_an_inner_behavior_returns_is_raised_to_the_outer_one(app: Mediator) -> Ask:
    @app.behavior
    async def outer(message: Any, call_next: CallNext[Any, Any]) -> Any:
        try:
            return await call_next(message)
        except SoldOutError:
            return 7

    @app.behavior
    async def inner(message: Any, call_next: CallNext[Any, Any]) -> Any:
        return Failure(SoldOutError("none left"))

    answering(app)
    return Ask()


@means(failure("meaning.sold_out", "none left"))
def a_failure_that_a_routers_behavior_returns_is_the_failure(app: Mediator) -> Ask:
    router = Router()

    @router.behavior
    async def refuse(message: Any, call_next: CallNext[Any, Any]) -> Any:
        return Failure(SoldOutError("none left"))

    @router.handler
    async def ask(ask: Ask) -> int:
        return 1

    app.include(router)
    return Ask()


@means(failure("handler_error", "ValueError: no"))
def an_exception_of_a_behavior_is_a_handler_error(app: Mediator) -> Ask:
    @app.behavior
    async def refuse(message: Any, call_next: CallNext[Any, Any]) -> Any:
        raise ValueError("no")

    answering(app)
    return Ask()


@means(failure("handler_error", "2 handlers failed: ValueError: one; ValueError: two"))
def the_failures_of_several_handlers_of_an_event_are_told_together(app: Mediator) -> Asked:
    @app.handler
    async def one(asked: Asked) -> None:
        raise ValueError("one")

    @app.handler
    async def two(asked: Asked) -> None:
        raise ValueError("two")

    return Asked()


@means(success(2))
def retry_takes_a_list_of_classes(app: Mediator) -> Ask:
    app.behavior(Retry(2, base=0.0, on=[KeyError, ValueError]))
    failing_once(app)
    return Ask()


@means(success(2))
def retry_takes_a_function(app: Mediator) -> Ask:
    app.behavior(Retry(2, base=0.0, on=lambda error: "no" in str(error)))
    failing_once(app)
    return Ask()


@means(failure("handler_error", "ValueError: no"))
def a_circuit_breaker_takes_a_list_of_classes(app: Mediator) -> Ask:
    app.behavior(CircuitBreaker(1, ignore=[ValueError]))
    app.behavior(Retry(2, base=0.0, on=ValueError))

    @app.handler
    async def ask(ask: Ask) -> int:
        raise ValueError("no")

    return Ask()


def failing_once(app: Mediator) -> None:
    """Give `app` a handler that fails the first time, and then returns how often it was called."""
    calls: list[Ask] = []

    @app.handler
    async def ask(ask: Ask) -> int:
        calls.append(ask)
        if len(calls) == 1:
            raise ValueError("no")
        return len(calls)


# -- deadlines ----------------------------------------------------------------------------------------


@means(failure("timeout", ANY, "maybe"))
def the_timeout_of_a_request_ends_it(app: Mediator) -> Hurried:
    @app.handler
    async def hurried(hurried: Hurried) -> int:
        await asyncio.Event().wait()
        return 1

    return Hurried()


@means(failure("timeout", ANY, "maybe"))
def the_timeout_of_a_request_ends_its_behaviors(app: Mediator) -> Hurried:
    @app.behavior
    async def hang(message: Any, call_next: CallNext[Any, Any]) -> Any:
        await asyncio.Event().wait()

    app.handles(Hurried)(lambda hurried: hurried.number)
    return Hurried()


@means(failure("timeout", ANY, "maybe"))
def the_timeout_of_an_event_ends_it(app: Mediator) -> HurriedEvent:
    @app.handler
    async def hurried(hurried: HurriedEvent) -> None:
        await asyncio.Event().wait()

    return HurriedEvent()


@means(failure("timeout", ANY, "maybe"))
def a_value_that_comes_after_the_deadline_is_too_late(app: Mediator) -> Hurried:
    @app.handler
    async def hurried(hurried: Hurried) -> int:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.sleep(0.3)
        return 1

    return Hurried()


@means(failure("timeout", ANY, "maybe"))
def an_error_that_comes_after_the_deadline_is_too_late(app: Mediator) -> Hurried:
    @app.handler
    async def hurried(hurried: Hurried) -> int:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0.3)
            raise ValueError("while it cleaned up") from None
        return 1

    return Hurried()


@means(success(1))
def a_request_within_its_timeout_is_a_success(app: Mediator) -> Hurried:
    @app.handler
    async def hurried(hurried: Hurried) -> int:
        return 1

    return Hurried()


@means(failure("handler_error", "TimeoutError: "))
def a_handlers_own_time_out_is_its_error(app: Mediator) -> Hurried:
    @app.handler
    async def hurried(hurried: Hurried) -> int:
        raise TimeoutError

    return Hurried()


@means(failure("handler_error", "TypeError: it returned a generator, which nobody runs"))
def a_handler_of_an_event_cannot_return_a_generator(app: Mediator) -> Asked:
    @app.handler
    def asked(event: Asked) -> Any:
        return (number for number in range(event.number))

    return Asked()


@means(failure("handler_error", "TypeError: it returned a generator, which nobody runs"))
def nor_an_asynchronous_one(app: Mediator) -> Asked:
    async def numbers() -> Any:
        yield 1

    @app.handler
    async def asked(event: Asked) -> Any:
        return numbers()

    return Asked()


@means(failure("handler_error", "TypeError: it returned a generator, which nobody runs"))
def nor_one_inside_the_behaviors_of_its_router(app: Mediator) -> Asked:
    router = Router()

    @router.behavior
    async def around(message: Any, call_next: CallNext[Any, Any]) -> Any:
        return await call_next(message)

    @router.handler
    def asked(event: Asked) -> Any:
        return (number for number in range(event.number))

    app.include(router)
    return Asked()
