"""Behaviors where it hurts: cancelled, out of time, without their store, given nonsense."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import pydantic
import pytest
from behavior_parts import Ask, BrokenStore, Told, echo, error_of, mediator
from msgspec import Meta

from catga import Mediator, Request
from catga.errors import (
    CatgaTimeoutError,
    CircuitOpenError,
    HandlerError,
    InProgressError,
    InvalidMessageError,
    RateLimitedError,
    StoreError,
)
from catga.mediator import MessageContext
from catga.mediator.behaviors import (
    Caching,
    CircuitBreaker,
    ConcurrencyLimit,
    DeadLetters,
    Idempotency,
    MemoryStore,
    RateLimit,
    Retry,
    Timeout,
    Validation,
)
from catga.testing import eventually

# -- idempotency ----------------------------------------------------------------------------------------


async def test_a_run_longer_than_its_lease_is_cancelled() -> None:
    async def hang(number: int) -> int:
        await asyncio.Event().wait()
        return number

    app = mediator(Idempotency(key=lambda m: m.number, lease=0.02), hang)
    assert isinstance(error_of(await app.send(Ask())), CatgaTimeoutError)


async def test_a_timeout_of_the_handler_is_not_taken_for_the_lease() -> None:
    async def fail(number: int) -> int:
        raise TimeoutError("my own")

    for behavior in (Idempotency(key=lambda m: m.number), Timeout(60.0)):
        error = error_of(await mediator(behavior, fail).send(Ask()))
        assert isinstance(error, HandlerError)
        assert error.details["message"] == "my own"


async def test_a_cancelled_run_frees_its_key() -> None:
    gate = asyncio.Event()
    runs: list[int] = []

    async def wait(number: int) -> int:
        runs.append(number)
        await gate.wait()
        return number

    app = mediator(Idempotency(key=lambda m: m.number), wait)
    first = asyncio.ensure_future(app.send(Ask(1)))
    await eventually(lambda: runs)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    gate.set()
    assert (await app.send(Ask(1))).unwrap() == 1
    assert runs == [1, 1]


async def test_a_duplicate_does_not_wait_for_ever() -> None:
    gate = asyncio.Event()
    runs: list[int] = []

    async def wait(number: int) -> int:
        runs.append(number)
        await gate.wait()
        return number

    app = mediator(Idempotency(key=lambda m: m.number, wait=0.0), wait)
    first = asyncio.ensure_future(app.send(Ask(1)))
    await eventually(lambda: runs)
    error = error_of(await app.send(Ask(1)))
    assert isinstance(error, InProgressError)
    assert error.is_retryable
    gate.set()
    assert (await first).unwrap() == 1


async def test_without_its_store_nothing_runs_but_what_ran_is_answered() -> None:
    runs: list[int] = []

    async def run(number: int) -> int:
        runs.append(number)
        return number

    app = mediator(Idempotency(BrokenStore(), key=lambda m: m.number), run)  # type: ignore[arg-type]
    assert isinstance(error_of(await app.send(Ask(1))), StoreError)
    assert runs == []
    app = mediator(Idempotency(BrokenStore(works=("add",)), key=lambda m: m.number), run)  # type: ignore[arg-type]
    assert (await app.send(Ask(1))).unwrap() == 1


async def test_a_failure_is_passed_on_though_its_claim_cannot_be_freed() -> None:
    async def fail(number: int) -> int:
        raise KeyError(number)

    app = mediator(Idempotency(BrokenStore(works=("add",)), key=lambda m: m.number), fail)  # type: ignore[arg-type]
    assert error_of(await app.send(Ask(1))).details["type"] == "KeyError"


async def test_without_a_key_the_message_id_is_used_or_missed() -> None:
    async def run(number: int) -> int:
        return number

    app = mediator(Idempotency(), run)
    assert isinstance(error_of(await app.send(Ask(1))), InvalidMessageError)
    app.use(MessageContext())
    assert (await app.send(Ask(1))).unwrap() == 1


# -- limits ---------------------------------------------------------------------------------------------


async def test_a_cancelled_waiter_gives_its_place_back() -> None:
    gate = asyncio.Event()
    runs: list[int] = []

    async def wait(number: int) -> int:
        runs.append(number)
        await gate.wait()
        return number

    app = mediator(ConcurrencyLimit(1, waiting=1), wait)
    tasks = [asyncio.ensure_future(app.send(Ask(n))) for n in (1, 2)]
    await eventually(lambda: runs)
    tasks[1].cancel()
    await asyncio.gather(tasks[1], return_exceptions=True)
    third = asyncio.ensure_future(app.send(Ask(3)))
    gate.set()
    assert [(await tasks[0]).unwrap(), (await third).unwrap()] == [1, 3]


def test_a_limit_works_in_one_event_loop_after_another() -> None:
    async def wait(number: int) -> int:
        await asyncio.sleep(0)
        return number

    app = mediator(ConcurrencyLimit(1), wait)
    for _ in range(2):
        results = asyncio.run(app.send_batch([Ask(1), Ask(2), Ask(3)]))
        assert [result.unwrap() for result in results] == [1, 2, 3]


async def test_each_key_has_a_bucket_and_their_number_is_bounded() -> None:
    limit = RateLimit(1.0, burst=1, key=lambda m: m.number, max_keys=2, clock=lambda: 0.0)
    app = mediator(limit, echo)
    assert [(await app.send(Ask(n))).is_success for n in (1, 2, 1, 2)] == [True, True, False, False]
    assert (await app.send(Ask(3))).is_success  # the bucket of 1 goes
    assert isinstance(error_of(await app.send(Ask(2))), RateLimitedError)
    assert (await app.send(Ask(1))).is_success


async def test_a_cancelled_probe_lets_the_next_one_probe() -> None:
    now = 0.0
    gate = asyncio.Event()
    started: list[int] = []

    async def run(number: int) -> int:
        if number == 0:
            raise KeyError("down")
        started.append(number)
        await gate.wait()
        return number

    app = mediator(CircuitBreaker(1, reset=1.0, clock=lambda: now), run)
    await app.send(Ask(0))
    now = 2.0
    probe = asyncio.ensure_future(app.send(Ask(1)))
    await eventually(lambda: started)
    assert isinstance(error_of(await app.send(Ask(2))), CircuitOpenError)
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)
    gate.set()
    assert (await app.send(Ask(3))).unwrap() == 3


async def test_each_handler_of_an_event_has_its_own_circuit() -> None:
    app = Mediator()
    app.behavior(CircuitBreaker(2))
    runs: list[str] = []

    @app.handler
    async def broken(event: Told) -> None:
        runs.append("broken")
        raise KeyError("down")

    @app.handler
    async def well(event: Told) -> None:
        runs.append("well")

    errors = [error_of(await app.publish(Told())) for _ in range(4)]
    assert [type(error) for error in errors] == [HandlerError, HandlerError, CircuitOpenError, CircuitOpenError]
    assert (runs.count("broken"), runs.count("well")) == (2, 4)


async def test_a_handler_that_hangs_opens_the_circuit_where_the_timeout_is_inside() -> None:
    async def hang(number: int) -> int:
        await asyncio.Event().wait()
        return number

    app = Mediator()
    app.behavior(CircuitBreaker(2))
    app.include(mediator(Timeout(0.01), hang))
    errors = [error_of(await app.send(Ask())) for _ in range(3)]
    assert [type(error) for error in errors] == [CatgaTimeoutError, CatgaTimeoutError, CircuitOpenError]


async def test_invalid_messages_do_not_open_the_circuit() -> None:
    async def refuse(number: int) -> int:
        raise InvalidMessageError("bad")

    app = mediator(CircuitBreaker(1), refuse)
    for _ in range(3):
        assert isinstance(error_of(await app.send(Ask())), InvalidMessageError)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Timeout(0),
        lambda: Retry(0),
        lambda: Retry(base=-1),
        lambda: ConcurrencyLimit(0),
        lambda: Retry(cap=float("nan")),
        lambda: RateLimit(0),
        lambda: RateLimit(float("inf")),
        lambda: RateLimit(1, burst=0),
        lambda: CircuitBreaker(0),
        lambda: CircuitBreaker(reset=0),
        lambda: Caching(ttl=0),
    ],
)
def test_numbers_that_cannot_work_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="must be"):
        make()


async def test_a_thousand_retries_end_with_the_handlers_error() -> None:
    async def fail(number: int) -> int:
        raise ConnectionError("down")

    app = mediator(Retry(1200, base=1.0, cap=0.0, on=ConnectionError), fail)
    assert error_of(await app.send(Ask())).details["type"] == "ConnectionError"


# -- validation -----------------------------------------------------------------------------------------


@dataclass
class Checked(Request[int]):
    number: Annotated[int, Meta(ge=1)]


class CheckedStruct(msgspec.Struct, Request[int]):
    number: Annotated[int, Meta(ge=1)]


class CheckedModel(pydantic.BaseModel, Request[int]):
    number: int = pydantic.Field(ge=1)


@pytest.mark.parametrize("cls", [Checked, CheckedStruct, CheckedModel])
async def test_a_local_message_is_held_to_its_models_rules(cls: Any) -> None:
    app = Mediator()
    app.behavior(Validation())
    app.handles(cls)(lambda request: request.number)
    message = cls(number=1)
    assert (await app.send(message)).unwrap() == 1
    message.number = 0
    error = error_of(await app.send(message))
    assert isinstance(error, InvalidMessageError)
    assert error.details["path"] == "$.number"


async def test_a_validator_may_be_async_and_say_its_own_path() -> None:
    async def validate(message: Any) -> None:
        raise InvalidMessageError("taken", details={"path": "$.name"})

    error = error_of(await mediator(Validation(validate), echo).send(Ask()))
    assert error.details == {"path": "$.name"}


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_validator_may_say_no_by_false(is_async: bool) -> None:
    """As predicates do; None says nothing."""

    def positive(message: Any) -> bool:
        return False

    async def later(message: Any) -> bool:
        return False

    error = error_of(await mediator(Validation(later if is_async else positive), echo).send(Ask()))
    assert isinstance(error, InvalidMessageError)
    assert ("later" if is_async else "positive") in error.message
    assert (await mediator(Validation(lambda message: None), echo).send(Ask())).is_success


@pytest.mark.parametrize("errors", [[ValueError, "KeyError"], "KeyError", 3, int, [ValueError("no")]])
def test_what_are_no_exception_classes_is_refused_where_it_is_written(errors: Any) -> None:
    """Not at the first failure, whose error it would hide."""
    for make in (lambda: Retry(on=errors), lambda: CircuitBreaker(ignore=errors)):
        with pytest.raises(TypeError, match="must be exception classes"):
            make()


def test_options_of_another_kind_are_refused_at_once() -> None:
    by_name: Any = "order_id"
    for make in (
        lambda: Idempotency(key=by_name),
        lambda: Caching(ttl=1, key=by_name),
        lambda: RateLimit(1, key=by_name),
    ):
        with pytest.raises(TypeError, match=r"key must be a function of the message, .* got 'order_id'"):
            make()
    no_store: Any = lambda order: order.order_id  # noqa: E731
    for make in (lambda: Idempotency(no_store), lambda: Caching(no_store, ttl=1)):
        with pytest.raises(TypeError, match=r"store must be a store such as MemoryStore\(\)"):
            make()
    of_keys: Any = MemoryStore()
    with pytest.raises(TypeError, match=r"store must be a store such as MemoryDeadLetters\(\)"):
        DeadLetters(of_keys)
