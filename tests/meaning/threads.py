"""Blocking functions, which run in threads."""

import asyncio
import threading
import time
from dataclasses import dataclass
from typing import Any
from unittest.mock import ANY

from failures import Ask, Asked, Panic, SoldOutError
from places import Table, failure, success

from catga import CatgaResult, Failure, Mediator, Request, context, current, current_message, message
from catga.abc import CallNext
from catga.mediator.behaviors import Retry
from catga.mediator.router import Router

TABLE = Table()
means = TABLE.means


@message(timeout=0.2)
@dataclass(frozen=True)
class Brief(Request[int]):
    number: int = 1


@dataclass(frozen=True)
class Where(Request[list[bool]]):
    """Answered with whether each thing ran in the thread of the event loop."""


def is_loops() -> bool:
    """Whether this is the thread of the event loop, or one whose loop runs."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


@means(success([True, False, True]))
def a_function_runs_in_a_thread_and_its_behaviors_in_the_loop(app: Mediator) -> Where:
    @app.behavior
    async def around(message: Any, call_next: CallNext[Any, Any]) -> Any:
        before = is_loops()
        value = await call_next(message)
        return [before, *value, is_loops()]

    @app.handler(in_thread=True)
    def where(where: Where) -> list[bool]:
        return [is_loops()]

    return Where()


@means(success(5))
def a_blocking_function_answers(app: Mediator) -> Ask:
    @app.handler(in_thread=True)
    def ask(ask: Ask) -> int:
        time.sleep(0.01)
        return 5

    return Ask()


@means(success(5))
def a_blocking_function_of_a_router_answers(app: Mediator) -> Ask:
    router = Router()
    router.handles(Ask, in_thread=True)(lambda ask: 5)
    app.include(router)
    return Ask()


@means(success([False]))
def a_blocking_method_of_a_class_runs_in_a_thread(app: Mediator) -> Where:
    class Handler:
        def handle(self, where: Where) -> list[bool]:
            return [is_loops()]

    app.add_handler(Where, Handler, in_thread=True)
    return Where()


@means(success())
def a_blocking_function_handles_an_event(app: Mediator) -> Asked:
    heard: list[bool] = []

    @app.handler(in_thread=True)
    def in_thread(asked: Asked) -> None:
        heard.append(is_loops())

    @app.handler
    async def behind(asked: Asked) -> None:
        assert heard == [False]

    return Asked()


@means(failure("handler_error", "ValueError: no"))
def an_exception_of_a_blocking_function_is_a_handler_error(app: Mediator) -> Ask:
    @app.handler(in_thread=True)
    def ask(ask: Ask) -> int:
        raise ValueError("no")

    return Ask()


@means(failure("handler_error", "failures.Panic: boom"))
def a_base_exception_of_a_blocking_function_is_a_handler_error(app: Mediator) -> Ask:
    @app.handler(in_thread=True)
    def ask(ask: Ask) -> int:
        raise Panic("boom")

    return Ask()


@means(failure("handler_error", "RuntimeError: coroutine raised StopIteration"))
def an_end_of_iteration_in_a_blocking_function_is_a_handler_error(app: Mediator) -> Ask:
    @app.handler(in_thread=True)
    def ask(ask: Ask) -> int:
        return next(iter(()))

    return Ask()


@means(failure("meaning.sold_out", "none left"))
def an_error_of_a_blocking_function_is_the_answer(app: Mediator) -> Ask:
    @app.handler(in_thread=True)
    def ask(ask: Ask) -> int:
        raise SoldOutError("none left")

    return Ask()


@means(failure("meaning.sold_out", "none left"))
def a_failure_that_a_blocking_function_returns_is_the_failure(app: Mediator) -> Ask:
    @app.handler(in_thread=True)
    def ask(ask: Ask) -> CatgaResult[int]:
        return Failure(SoldOutError("none left"))

    return Ask()


@means(success(2))
def a_blocking_function_is_retried(app: Mediator) -> Ask:
    app.behavior(Retry(2, base=0.0, on=ValueError))
    calls: list[Ask] = []

    @app.handler(in_thread=True)
    def ask(ask: Ask) -> int:
        calls.append(ask)
        if len(calls) == 1:
            raise ValueError("no")
        return len(calls)

    return Ask()


@means(failure("timeout", ANY, "maybe"))
def the_caller_of_a_blocking_function_gets_its_time_out_at_once(app: Mediator) -> Brief:
    ends = threading.Event()
    app.handles(Ask)(lambda ask: 0)

    @app.handler(in_thread=True)
    def brief(brief: Brief) -> int:
        ends.wait(1.0)
        return 1

    return Brief()


@means(success(True))
def current_in_a_thread_is_what_it_is_in_the_handler(app: Mediator) -> "IsCurrent":
    seen: list[Mediator] = []
    other = Mediator()  # so that there are several

    @app.behavior
    async def around(message: Any, call_next: CallNext[Any, Any]) -> Any:
        seen.append(current())
        return await call_next(message)

    @app.handler(in_thread=True)
    def is_current(message: IsCurrent) -> bool:
        return current() is seen[0] and current() is not other

    return IsCurrent()


@means(success(6))
def a_blocking_function_sends_by_current(app: Mediator) -> "Twice":
    @app.handler
    async def ask(ask: Ask) -> int:
        return ask.number

    @app.handler(in_thread=True)
    def twice(twice: Twice) -> int:
        return 2 * asyncio.run(current().send(Ask(twice.number))).unwrap()

    return Twice(3)


@means(success(8))
def a_blocking_function_sends_to_a_blocking_function(app: Mediator) -> "Twice":
    app.handles(Ask, in_thread=True)(lambda ask: ask.number)

    @app.handler(in_thread=True)
    def twice(twice: Twice) -> int:
        return 2 * asyncio.run(app.send(Ask(twice.number))).unwrap()

    return Twice(4)


@means(success("acme"))
def the_context_is_there_in_a_thread(app: Mediator) -> "Tenant":
    @app.behavior
    async def around(message: Any, call_next: CallNext[Any, Any]) -> Any:
        with context(tenant="acme"):
            return await call_next(message)

    @app.handler
    async def inner(inner: Inner) -> str:
        return current_message().context["tenant"]

    @app.handler(in_thread=True)
    def tenant(tenant: Tenant) -> str:
        return asyncio.run(app.send(Inner())).unwrap()

    return Tenant()


@dataclass(frozen=True)
class Tenant(Request[str]):
    """Answered with a value of the context."""


@dataclass(frozen=True)
class Inner(Request[str]):
    """The same."""


@dataclass(frozen=True)
class Twice(Request[int]):
    number: int


@dataclass(frozen=True)
class IsCurrent(Request[bool]):
    """Answered with whether it is."""
