"""Events whose handlers run at the same time."""

import asyncio
import contextvars
import time
from dataclasses import dataclass
from typing import Any
from unittest.mock import ANY

from failures import Panic, SoldOutError
from places import Table, failure, success

from catga import Event, Mediator, current, message
from catga.abc import CallNext
from catga.mediator.behaviors import Retry
from catga.mediator.router import Router

TABLE = Table()
means = TABLE.means

mark: contextvars.ContextVar[str] = contextvars.ContextVar("mark", default="")


@message(concurrent=True)
@dataclass(frozen=True)
class Arrived(Event):
    number: int = 1


@dataclass(frozen=True)
class Derived(Arrived):
    """Inherits how it is delivered."""


@message(concurrent=True, timeout=0.2)
@dataclass(frozen=True)
class Brief(Event):
    number: int = 1


def meeting(app: Mediator, cls: type[Event] = Arrived, count: int = 3) -> None:
    """Give `app` handlers that end only if all of them run at the same time."""
    barrier = asyncio.Barrier(count)

    async def meet(event: Event) -> None:
        async with asyncio.timeout(10):
            await barrier.wait()

    for _ in range(count):
        app.handles(cls)(lambda event: meet(event))


@means(success())
def the_handlers_run_at_the_same_time(app: Mediator) -> Arrived:
    meeting(app)
    return Arrived()


@means(success())
def the_handlers_of_a_derived_event_run_at_the_same_time(app: Mediator) -> Derived:
    meeting(app, Derived)
    return Derived()


@means(success())
def the_handlers_of_several_routers_run_at_the_same_time(app: Mediator) -> Arrived:
    barrier = asyncio.Barrier(2)
    for _ in range(2):
        router = Router()
        router.behavior(Retry(2))

        @router.handler
        async def meet(event: Arrived) -> None:
            async with asyncio.timeout(10):
                await barrier.wait()

        app.include(router)
    return Arrived()


@means(success())
def a_single_handler_runs(app: Mediator) -> Arrived:
    meeting(app, count=1)
    return Arrived()


@means(success())
def blocking_functions_run_at_the_same_time(app: Mediator) -> Arrived:
    running: list[int] = []

    def meet(number: int) -> None:
        running.append(number)
        end = time.monotonic() + 10
        while len(running) < 3:
            assert time.monotonic() < end
            time.sleep(0.001)

    for number in range(3):
        app.handles(Arrived, in_thread=True)(lambda event, number=number: meet(number))
    return Arrived()


@means(failure("handler_error", "2 handlers failed: ValueError: one; ValueError: two"))
def the_failures_of_several_handlers_are_told_together_in_their_order(app: Mediator) -> Arrived:
    @app.handler
    async def one(event: Arrived) -> None:
        await asyncio.sleep(0.02)
        raise ValueError("one")

    @app.handler
    async def two(event: Arrived) -> None:
        raise ValueError("two")

    @app.handler
    async def three(event: Arrived) -> None:
        await asyncio.sleep(0.01)

    return Arrived()


@means(failure("meaning.sold_out", "none left"))
def the_failure_of_one_handler_is_the_failure_of_the_event(app: Mediator) -> Arrived:
    meeting(app, count=2)

    @app.handler
    async def sold_out(event: Arrived) -> None:
        raise SoldOutError("none left")

    return Arrived()


@means(failure("handler_error", "failures.Panic: boom"))
def a_base_exception_of_one_handler_is_a_handler_error(app: Mediator) -> Arrived:
    meeting(app, count=2)

    @app.handler
    def panic(event: Arrived) -> None:
        raise Panic("boom")

    return Arrived()


@means(failure("handler_error", "CancelledError: the handler was cancelled"))
def a_cancellation_that_one_handler_made_itself_is_a_handler_error(app: Mediator) -> Arrived:
    meeting(app, count=2)

    @app.handler
    async def cancel(event: Arrived) -> None:
        task = asyncio.ensure_future(asyncio.Event().wait())
        task.cancel()
        await task

    return Arrived()


@means(success())
def each_handler_has_its_behaviors(app: Mediator) -> Arrived:
    seen: list[Event] = []
    barrier = asyncio.Barrier(2)

    @app.behavior
    async def around(message: Any, call_next: CallNext[Any, Any]) -> Any:
        seen.append(message)
        await barrier.wait()
        assert len(seen) == 2
        return await call_next(message)

    for _ in range(2):
        app.handles(Arrived)(lambda event: None)
    return Arrived()


@means(success())
def each_handler_has_a_context_of_its_own(app: Mediator) -> Arrived:
    async def handle(name: str) -> None:
        assert mark.get() == ""
        mark.set(name)
        await asyncio.sleep(0.01)
        assert mark.get() == name

    for name in "abc":
        app.handles(Arrived)(lambda event, name=name: handle(name))
    return Arrived()


@means(success())
def current_is_the_same_in_all_handlers(app: Mediator) -> Arrived:
    found: list[Mediator] = []
    other = Mediator()  # so that there are several

    async def handle() -> None:
        found.append(current())
        await asyncio.sleep(0)
        found.append(current())
        assert all(each is found[0] and each is not other for each in found)

    for _ in range(3):
        app.handles(Arrived)(lambda event: handle())
    return Arrived()


@means(failure("timeout", ANY, "maybe"))
def the_time_out_ends_all_handlers(app: Mediator) -> Brief:
    async def hang() -> None:
        await asyncio.Event().wait()

    for _ in range(3):
        app.handles(Brief)(lambda event: hang())
    return Brief()
