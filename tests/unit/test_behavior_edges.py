"""Behaviors where it hurts: cancelled, out of time, without their store, given nonsense."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pydantic
import pytest
from msgspec import Meta

from catga import Event, Failure, Mediator, Request
from catga.errors import (
    CatgaError,
    CatgaTimeoutError,
    CircuitOpenError,
    HandlerError,
    HandlerNotFoundError,
    InProgressError,
    InvalidMessageError,
    RateLimitedError,
    StoreError,
)
from catga.mediator import MessageContext, Router
from catga.mediator.behaviors import (
    Caching,
    CircuitBreaker,
    ConcurrencyLimit,
    DeadLetter,
    DeadLetters,
    Idempotency,
    MemoryDeadLetters,
    MemoryStore,
    RateLimit,
    Retry,
    Timeout,
    Validation,
)
from catga.testing import eventually


@dataclass(frozen=True)
class Ask(Request[int]):
    number: int = 0


@dataclass(frozen=True)
class Told(Event):
    number: int = 0


Run = Callable[[int], Awaitable[int]]


def mediator(behavior: Any, run: Run) -> Mediator:
    app = Mediator()
    app.behavior(behavior)

    @app.handler
    async def ask(request: Ask) -> int:
        return await run(request.number)

    @app.handler
    async def told(event: Told) -> None:
        await run(event.number)

    return app


def error_of(result: Any) -> Any:
    assert isinstance(result, Failure)
    return result.error


class BrokenStore:
    """A store that is out of reach."""

    def __init__(self, *, works: tuple[str, ...] = ()) -> None:
        self._inner = MemoryStore()
        self._works = works

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name) if name in self._works else self._fail

    async def _fail(self, *_: object) -> Any:
        raise StoreError("out of reach")


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


# -- caching --------------------------------------------------------------------------------------------


async def test_a_cache_without_its_store_misses_and_failures_are_not_kept() -> None:
    numbers = iter((1, 2, 3))

    async def run(number: int) -> int:
        found = next(numbers)
        if number == 9:
            raise KeyError(number)
        return found

    app = mediator(Caching(BrokenStore(), ttl=60.0), run)  # type: ignore[arg-type]
    assert [(await app.send(Ask(5))).unwrap() for _ in range(2)] == [1, 2]
    app = mediator(Caching(ttl=60.0), run)
    assert isinstance(error_of(await app.send(Ask(9))), HandlerError)


async def test_what_a_newer_version_cached_is_a_miss() -> None:
    store = MemoryStore()
    app = mediator(Caching(store, ttl=60.0, key=lambda m: "k"), _echo)
    await store.put(f"cache:{Ask.__module__}.Ask:'k'", b"\xa5hello", 60.0)
    assert (await app.send(Ask(4))).unwrap() == 4


class Address(pydantic.BaseModel):
    street: str
    note: str = pydantic.Field("", exclude=True)


class Page(pydantic.BaseModel, Request[str]):
    number: int
    tenant: str = pydantic.Field("", exclude=True)
    address: Address = Address(street="s")
    path: Path = Path()


async def test_requests_that_differ_in_anything_share_no_answer() -> None:
    app = Mediator()
    app.behavior(Caching(ttl=60.0))
    runs: list[Page] = []

    @app.handler
    def page(request: Page) -> str:
        runs.append(request)
        return repr(request)

    pages = [
        Page(number=1),
        Page(number=1, tenant="a"),
        Page(number=1, tenant="b"),
        Page(number=1, address=Address(street="s", note="n")),
        Page(number=1, path=Path("p")),
    ]
    for _ in range(2):
        assert [(await app.send(page)).unwrap() for page in pages] == [repr(page) for page in pages]
    assert runs == pages


async def test_a_request_without_a_key_is_refused_by_the_cache() -> None:
    for key in (lambda m: None, None):
        app = Mediator()
        app.behavior(Caching(ttl=60.0, key=key))
        app.handles(Unkeyed)(lambda request: 1)
        assert isinstance(error_of(await app.send(Unkeyed(lambda: 1))), InvalidMessageError)


@dataclass(frozen=True)
class Unkeyed(Request[int]):
    what: Any


async def _echo(number: int) -> int:
    return number


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
    app = mediator(limit, _echo)
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

    error = error_of(await mediator(Validation(validate), _echo).send(Ask()))
    assert error.details == {"path": "$.name"}


# -- dead letters ---------------------------------------------------------------------------------------


async def test_an_event_cancelled_at_its_deadline_is_a_dead_letter() -> None:
    letters = DeadLetters()
    started: list[int] = []

    async def hang(number: int) -> int:
        started.append(number)
        await asyncio.Event().wait()
        return number

    app = mediator(letters, hang)
    publish = asyncio.ensure_future(app.publish(Told(1)))
    await eventually(lambda: started)
    publish.cancel()
    await asyncio.gather(publish, return_exceptions=True)
    (letter,) = await letters.list()
    assert letter.code == "cancelled"
    await letters.discard(letter.id)
    assert await letters.list() == []


async def test_a_request_that_fails_is_no_dead_letter() -> None:
    async def fail(number: int) -> int:
        raise KeyError(number)

    letters = DeadLetters()
    assert not (await mediator(letters, fail).send(Ask())).is_success
    assert await letters.list() == []


async def test_a_replay_that_cannot_run_says_why_and_keeps_the_letter() -> None:
    store = MemoryDeadLetters()
    letters = DeadLetters(store)
    app = mediator(letters, _echo)
    name = f"{Told.__module__}.Told"
    good: dict[str, Any] = {"handler": "gone", "body": b"\x81\xa6number\x01", "code": "", "error": "", "failed_at": 0.0}
    await store.put(DeadLetter(id="1", name="unknown.Event", **good))
    await store.put(DeadLetter(id="2", name=name, **good))
    await store.put(DeadLetter(id="3", name=name, **{**good, "body": b"\xff"}))
    assert type(error_of(await letters.replay(app, "0"))) is CatgaError
    assert isinstance(error_of(await letters.replay(app, "1")), HandlerNotFoundError)
    assert isinstance(error_of(await letters.replay(app, "2")), HandlerNotFoundError)
    assert isinstance(error_of(await letters.replay(app, "3")), InvalidMessageError)
    assert len(await letters.list()) == 3


async def test_what_a_replayed_handler_publishes_is_no_replay() -> None:
    letters = DeadLetters()
    app = Mediator()
    app.behavior(letters)
    is_up = False
    heard: list[int] = []

    @dataclass(frozen=True)
    class Nested(Event):
        pass

    @app.handler
    async def told(event: Told) -> None:
        if not is_up:
            raise KeyError("down")
        await app.publish(Nested())

    @app.handler
    async def nested(event: Nested) -> None:
        heard.append(1)

    await app.publish(Told())
    is_up = True
    (letter,) = await letters.list()
    assert (await letters.replay(app, letter.id)).is_success
    assert heard == [1]


async def test_a_failure_is_passed_on_though_its_letter_cannot_be_kept(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(number: int) -> int:
        raise KeyError(number)

    app = mediator(DeadLetters(BrokenStore()), fail)  # type: ignore[arg-type]
    assert isinstance(error_of(await app.publish(Told())), HandlerError)
    assert "could not be kept" in caplog.text


@dataclass(frozen=True)
class Odd(Event):
    what: Any


async def test_an_event_that_cannot_be_kept_hides_neither_failure_nor_cancellation() -> None:
    letters = DeadLetters()
    app = Mediator()
    app.behavior(letters)
    started: list[int] = []

    @app.handler
    async def odd(event: Odd) -> None:
        started.append(1)
        if len(started) == 1:
            raise ValueError("the cause")
        await asyncio.Event().wait()

    assert error_of(await app.publish(Odd(object()))).details["message"] == "the cause"
    publish = asyncio.ensure_future(app.publish(Odd(object())))
    await eventually(lambda: len(started) == 2)
    publish.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publish
    assert await letters.list() == []


async def test_a_letter_is_replayed_for_the_box_that_keeps_it() -> None:
    outer, inner = DeadLetters(), DeadLetters()
    router, app = Router(), Mediator()
    router.behavior(inner)
    app.behavior(outer)
    runs: list[str] = []
    is_up = False

    @router.handler
    async def told(event: Told) -> None:
        if not is_up:
            raise KeyError("down")
        runs.append("told")

    @app.handler
    async def also(event: Told) -> None:
        runs.append("also")

    app.include(router)
    await app.publish(Told())
    (letter,) = await inner.list()
    await inner.replay(app, letter.id)
    assert [found.attempts for found in await inner.list()] == [2]
    assert len(await outer.list()) == 1
    is_up = True
    assert (await inner.replay(app, letter.id)).is_success
    assert runs == ["also", "told"]
    assert (len(await inner.list()), len(await outer.list())) == (0, 1)
