"""Who may try again: an error says so only if nothing can run twice that must not, whoever reads it."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from catga import Event, Failure, Mediator, Request, Success, add_cluster, current, message
from catga.errors import (
    CatgaError,
    CatgaTimeoutError,
    ClosedError,
    Execution,
    MaybeExecutedError,
    RateLimitedError,
    is_in_doubt,
)
from catga.integrations.fastapi import problem
from catga.mediator import Router
from catga.mediator.behaviors import CircuitBreaker, Retry, Timeout
from catga.mediator.pipeline import as_catga_error
from catga.result import joint_failure
from catga.testing import eventually


@message(timeout=0.2)
@dataclass(frozen=True)
class Charge(Request[str]):
    pass


@message(timeout=0.2, idempotent=True)
@dataclass(frozen=True)
class Look(Request[str]):
    pass


@message(timeout=0.2)
@dataclass(frozen=True)
class Charged(Event):
    pass


@dataclass(frozen=True)
class Order(Request[str]):
    charge: str = ""
    through: bool = False


@dataclass(frozen=True)
class Passing(Request[str]):
    """The handler of it passes on what it got of the bank."""


class Bank:
    """It takes a charge, and ends in its own way when it is cancelled: the money has gone."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.mediator = Mediator()
        for cls in (Charge, Look, Charged):
            self.mediator.handles(cls)(self._take)

    async def _take(self, message: Any) -> Any:
        self.began.append(type(message).__name__)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "charged"


Send = Callable[[Any], Awaitable[Any]]


class Place:
    """A bank, a shop with `behaviors`, and somebody who calls the shop."""

    def __init__(self, kind: str, url: str, stack: AsyncExitStack) -> None:
        self._kind, self._url, self._stack = kind, url, stack
        self.bank = Bank()

    async def open(self, *behaviors: Any) -> Send:
        shop = Router()
        for behavior in behaviors:
            shop.behavior(only=Order)(behavior)
        shop.handles(Order)(order)
        shop.handles(Passing)(passing)
        if self._kind == "one process":
            self.bank.mediator.include(shop)
            return self.bank.mediator.send
        app, prefix = Mediator(), f"t{uuid.uuid4().hex[:12]}"
        app.include(shop)
        url = self._url or f"memory://{prefix}"
        options = {"prefix": prefix}
        await self._stack.enter_async_context(add_cluster(self.bank.mediator, url, node_id="bank", **options))
        await self._stack.enter_async_context(add_cluster(app, url, node_id="shop", **options))
        caller = await self._stack.enter_async_context(add_cluster(Mediator(), url, node_id="caller", **options))
        await eventually(lambda: len(caller.get_nodes()) == 3)
        return caller.send


async def order(request: Order) -> str:
    if request.through:
        return (await current().send(Passing())).unwrap()
    if request.charge == "Charged":
        return str((await current().publish(Charged())).unwrap())
    return (await current().send(Look() if request.charge == "Look" else Charge())).unwrap()


async def passing(request: Passing) -> str:
    return (await current().send(Charge())).unwrap()


@pytest.fixture(params=["one process", "memory", "nats", "redis"])
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    url = request.getfixturevalue(f"{request.param}_url") if request.param in ("nats", "redis") else ""
    async with AsyncExitStack() as stack:
        yield Place(request.param, url, stack)


def error_of(result: Any) -> CatgaError:
    assert isinstance(result, Failure)
    return result.error


ALL = [Exception, CatgaError, lambda error: True]


@pytest.mark.parametrize("on", [(), *ALL], ids=["nothing", "all exceptions", "all errors", "a function"])
async def test_what_may_have_run_and_is_not_idempotent_runs_once(place: Place, on: Any) -> None:
    send = await place.open(Retry(3, base=0.001, on=on))
    error = error_of(await send(Order("Charge")))
    assert (error.code, error.is_retryable) == ("timeout", False)
    assert place.bank.began == ["Charge"]


async def test_so_it_does_behind_a_handler_that_passes_the_failure_on(place: Place) -> None:
    send = await place.open(Retry(3, base=0.001, on=Exception))
    error = error_of(await send(Order(through=True)))
    assert (error.code, error.is_retryable, error.execution) == ("timeout", False, Execution.ANSWERED)
    assert place.bank.began == ["Charge"]


async def test_an_event_that_may_have_run_runs_once(place: Place) -> None:
    send = await place.open(Retry(3, base=0.001, on=Exception))
    assert not error_of(await send(Order("Charged"))).is_retryable
    assert place.bank.began == ["Charged"]


async def test_what_is_idempotent_is_tried_again(place: Place) -> None:
    send = await place.open(Retry(3, base=0.001))
    error = error_of(await send(Order("Look")))
    assert (error.code, error.is_retryable) == ("timeout", True)
    assert place.bank.began == ["Look"] * 3


async def test_the_error_itself_says_whether_to_try_again(place: Place) -> None:
    send = await place.open()
    charge, look = error_of(await send(Charge())), error_of(await send(Look()))
    assert (charge.execution, charge.is_retryable, is_in_doubt(charge)) == (Execution.MAYBE, False, True)
    assert (look.execution, look.is_retryable, is_in_doubt(look)) == (Execution.MAYBE, True, False)
    assert b'"is_retryable":false' in problem(charge).body
    assert b'"is_retryable":true' in problem(look).body


# -- a `Timeout` cuts a handler off in the middle ---------------------------------------------------------


@dataclass(frozen=True)
class Pay(Request[int]):
    pass


@message(idempotent=True)
@dataclass(frozen=True)
class Count(Request[int]):
    pass


@pytest.mark.parametrize(("cls", "runs"), [(Pay, 1), (Count, 3)])
async def test_a_try_that_was_cut_off_is_repeated_only_if_the_message_is_idempotent(cls: type, runs: int) -> None:
    app, began = Mediator(), list[object]()
    app.behavior(Retry(3, base=0.0, on=Exception))
    app.behavior(Timeout(0.01))

    async def handle(request: object) -> int:
        began.append(request)
        await asyncio.sleep(60)
        return 1

    app.handles(cls)(handle)
    error = error_of(await app.send(cls()))
    assert (error.code, error.is_retryable) == ("timeout", cls is Count)
    assert len(began) == runs


# -- exception groups -------------------------------------------------------------------------------------


def timeout_in_doubt() -> CatgaTimeoutError:
    error = CatgaTimeoutError("late")
    error.is_retryable = False
    return error


def refused() -> CatgaError:
    error = CatgaTimeoutError("never sent")
    error.execution = Execution.NO
    return error


GROUPS = [
    ([ConnectionError()], ConnectionError, 3),
    ([ConnectionError(), ConnectionResetError()], ConnectionError, 3),
    ([ExceptionGroup("inner", [ConnectionError()]), ConnectionError()], ConnectionError, 3),
    ([ConnectionError(), KeyError()], ConnectionError, 1),
    ([refused()], (), 3),
    ([refused(), ConnectionError()], ConnectionError, 3),
    ([refused(), timeout_in_doubt()], (), 1),
    ([ConnectionError(), timeout_in_doubt()], Exception, 1),
    ([ConnectionError(), ExceptionGroup("inner", [MaybeExecutedError("lost")])], ExceptionGroup, 1),
    ([KeyError()], ExceptionGroup, 3),
]


@pytest.mark.parametrize(("errors", "on", "runs"), GROUPS, ids=range(len(GROUPS)))
async def test_a_group_is_tried_again_if_all_that_it_holds_may_be(errors: Any, on: Any, runs: int) -> None:
    app, began = Mediator(), list[object]()
    app.behavior(Retry(3, base=0.0, on=on))

    @app.handler
    async def pay(request: Pay) -> int:
        began.append(request)
        raise ExceptionGroup("several", errors)

    assert error_of(await app.send(Pay())).code == "handler_error"
    assert len(began) == runs


@pytest.mark.parametrize(("error", "runs"), [(ConnectionError(), 3), (KeyError(), 1), (MaybeExecutedError("x"), 1)])
@pytest.mark.parametrize("is_waiting", [True, False])
async def test_a_task_group_that_fails_is_no_cancellation(error: Exception, runs: int, is_waiting: bool) -> None:
    app, began = Mediator(), list[object]()
    app.behavior(Retry(3, base=0.0, on=ConnectionError))

    async def fail() -> None:
        await asyncio.sleep(0)
        raise error

    @app.handler
    async def pay(request: Pay) -> int:
        began.append(request)
        async with asyncio.TaskGroup() as group, asyncio.TaskGroup() as inner:
            inner.create_task(fail())
            group.create_task(asyncio.sleep(60))
            await asyncio.sleep(0 if is_waiting else 60)
        return 1

    assert error_of(await app.send(Pay())).code == "handler_error"
    assert len(began) == runs


async def test_a_try_that_was_cancelled_is_not_repeated_though_a_task_group_failed_in_it() -> None:
    app, began = Mediator(), list[object]()
    app.behavior(Retry(3, base=0.0, on=Exception))

    async def fail() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise ConnectionError

    @app.handler
    async def pay(request: Pay) -> int:
        began.append(request)
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
        return 1

    sending = asyncio.create_task(app.send(Pay()))
    await eventually(lambda: began)
    await asyncio.sleep(0)
    sending.cancel()
    await asyncio.wait([sending])
    assert len(began) == 1


# -- what stands for several failures ---------------------------------------------------------------------


class Stubborn(CatgaError):
    code = "stubborn_in_doubt"

    @property
    def is_retryable(self) -> bool:  # type: ignore[override]
        raise KeyError


@dataclass(frozen=True)
class Ordered(Event):
    pass


async def in_doubt() -> None:
    raise timeout_in_doubt()


async def in_doubt_in_a_group() -> None:
    raise ExceptionGroup("several", [KeyError(), timeout_in_doubt()])


@pytest.mark.parametrize("fail", [in_doubt, in_doubt_in_a_group])
@pytest.mark.parametrize("failing", [1, 2], ids=["one handler", "two handlers"])
@pytest.mark.parametrize("nodes", [0, 1, 2])
async def test_it_stays_in_doubt_in_what_stands_for_it(fail: Any, failing: int, nodes: int) -> None:
    def other() -> None:
        raise ConnectionError

    front, back, began = Mediator(), Mediator(), list[object]()
    front.handles(Ordered)(lambda event: fail())
    if failing == 2:
        front.handles(Ordered)(lambda event: other())
    if nodes == 2:
        back.handles(Ordered)(lambda event: other())
    front.behavior(only=Pay)(Retry(3, base=0.0, on=Exception))

    @front.handler
    async def pay(request: Pay) -> int:
        began.append(request)
        (await current().publish(Ordered())).unwrap()
        return 1

    async with AsyncExitStack() as stack:
        if nodes:
            await stack.enter_async_context(add_cluster(front, "memory://doubt", node_id="a", service="a"))
            sender = add_cluster(back, "memory://doubt", node_id="b", service="b")
            await stack.enter_async_context(sender)
            error = error_of(await sender.send(Pay()))
        else:
            error = error_of(await front.send(Pay()))
    assert (len(began), error.is_retryable, is_in_doubt(error)) == (1, False, True)


async def test_what_ran_in_one_service_stays_in_doubt_behind_a_hop() -> None:
    joint = joint_failure([Success(None), Failure(ClosedError("it is closed"))], "one of two", {}).error
    assert is_in_doubt(joint)
    assert is_in_doubt(as_catga_error(joint))
    assert is_in_doubt(error_of(Failure(as_catga_error(ExceptionGroup("several", [joint])))))
    assert not is_in_doubt(as_catga_error(ExceptionGroup("several", [refused(), ConnectionError()])))


def test_an_error_that_cannot_be_read_is_an_answer_all_the_same() -> None:
    assert as_catga_error(Stubborn("no")).execution is Execution.ANSWERED
    assert not as_catga_error(ExceptionGroup("several", [Stubborn("no")])).is_retryable


def test_an_error_of_a_class_that_is_never_retryable_is_in_no_doubt() -> None:
    assert not is_in_doubt(ClosedError("it is closed"))
    assert is_in_doubt(MaybeExecutedError("lost"))


@pytest.mark.parametrize(("how", "runs"), [("in its place", 1), ("from it", 1), ("from None", 3)])
async def test_what_is_raised_in_the_place_of_a_doubt_is_in_doubt(how: str, runs: int) -> None:
    app, began = Mediator(), list[object]()
    app.behavior(Retry(3, base=0.0, on=ValueError))

    @app.handler
    async def pay(request: Pay) -> int:
        began.append(request)
        try:
            raise timeout_in_doubt()
        except CatgaTimeoutError as doubt:
            if how == "in its place":
                raise ValueError("no")  # noqa: B904 - its context is what is tried
            raise ValueError("no") from (doubt if how == "from it" else None)

    assert error_of(await app.send(Pay())).code == "handler_error"
    assert len(began) == runs


async def test_a_failure_that_asks_to_wait_for_long_is_passed_on() -> None:
    app, began = Mediator(), list[object]()
    app.behavior(Retry(3, base=0.0))

    @app.handler
    async def pay(request: Pay) -> int:
        began.append(request)
        raise RateLimitedError("full", details={"retry_after": 1e9})

    assert error_of(await app.send(Pay())).code == "rate_limited"
    assert len(began) == 1


async def test_an_open_circuit_is_passed_on_at_once_and_not_sat_out() -> None:
    """`Retry` stands outside of the circuit, as the documentation has it."""
    app, began = Mediator(), list[object]()
    app.behavior(Retry(3, base=0.0))
    app.behavior(CircuitBreaker(1, reset=30.0))

    @app.handler
    async def pay(request: Pay) -> int:
        began.append(request)
        raise ConnectionError("down")

    assert error_of(await app.send(Pay())).code == "handler_error"
    async with asyncio.timeout(5.0):
        error = error_of(await app.send(Pay()))
    assert (error.code, error.is_retryable, len(began)) == ("circuit_open", True, 1)
    assert error.details["retry_after"] > 2.0


@dataclass(frozen=True)
class Noted(Request[int]):
    pass


@dataclass(frozen=True)
class Shop(Request[int]):
    pass


class Cashier:
    """A payment that is cut off, and what a handler does then. Notes come through at the third try."""

    def __init__(self) -> None:
        self.app, self.paid, self.noted = Mediator(), 0, 0
        self.app.behavior(only=Pay)(Timeout(0.01))
        self.app.behavior(only=Noted)(Retry(3, base=0.0, on=ConnectionError))
        self.app.behavior(only=Shop)(Retry(3, base=0.0, on=(ConnectionError, KeyError)))
        self.app.handles(Pay)(self.pay)
        self.app.handles(Noted)(self.note)

    async def pay(self, request: Pay) -> int:
        self.paid += 1
        await asyncio.Event().wait()
        return 1

    async def note(self, request: Noted) -> int:
        self.noted += 1
        if self.noted < 3:
            raise ConnectionError("no route")
        return 1


async def test_what_is_sent_while_a_doubt_is_handled_does_not_inherit_it() -> None:
    """Python makes the doubt the context of all that is raised meanwhile."""
    cashier = Cashier()
    try:
        (await cashier.app.send(Pay())).unwrap()
    except CatgaError:
        noted = await cashier.app.send(Noted())
    assert (noted.unwrap(), cashier.noted) == (1, 3)


async def test_an_error_of_what_is_sent_while_a_doubt_is_handled_is_in_no_doubt() -> None:
    cashier = Cashier()
    cashier.noted = -9
    try:
        (await cashier.app.send(Pay())).unwrap()
    except CatgaError:
        error = error_of(await cashier.app.send(Noted()))
    assert (error.code, is_in_doubt(error)) == ("handler_error", False)


async def _falls_back_in_a_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(_fails())


async def _fails() -> None:
    raise ConnectionError("the fallback is down, too")


async def _groups_in_a_group() -> None:
    try:
        await _falls_back_in_a_group()
    except ExceptionGroup as inner:
        failed = ExceptionGroup("outer", [ExceptionGroup("between", [inner])])
    raise failed


@pytest.mark.parametrize("fall_back", [_fails, _falls_back_in_a_group, _groups_in_a_group])
async def test_a_handler_that_fails_while_it_handles_a_doubt_is_in_doubt(
    fall_back: Callable[[], Awaitable[None]],
) -> None:
    """Its payment may have gone through: it must not pay again."""
    cashier = Cashier()

    @cashier.app.handler
    async def shop(request: Shop) -> int:
        try:
            return (await cashier.app.send(Pay())).unwrap()
        except CatgaError:
            await fall_back()
        return 0

    assert not (await cashier.app.send(Shop())).is_success
    assert cashier.paid == 1


async def test_groups_may_be_nested_deeper_than_calls_can_be() -> None:
    app = Mediator()
    app.behavior(Retry(2, base=0.0, on=KeyError))

    @app.handler
    async def pay(request: Pay) -> int:
        error: Exception = KeyError("deep")
        for _ in range(5000):
            error = ExceptionGroup("around", [error])
        raise error

    assert error_of(await app.send(Pay())).code == "handler_error"
