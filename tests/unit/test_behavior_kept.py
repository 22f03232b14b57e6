"""What behaviors keep: cached answers, dead letters."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic
import pytest
from behavior_parts import Ask, BrokenStore, Told, echo, error_of, mediator

from catga import Event, Mediator, Request
from catga.errors import CatgaError, HandlerError, HandlerNotFoundError, InvalidMessageError
from catga.mediator import Router
from catga.mediator.behaviors import Caching, DeadLetter, DeadLetters, MemoryDeadLetters, MemoryStore
from catga.mediator.behaviors.caching import MAX_WRITES
from catga.testing import eventually

# -- caching --------------------------------------------------------------------------------------------


async def test_a_cache_without_its_store_misses_and_failures_are_not_kept() -> None:
    numbers = iter((1, 2, 3))

    async def run(number: int) -> int:
        found = next(numbers)
        if number == 9:
            raise KeyError(number)
        return found

    cache = Caching(BrokenStore(), ttl=60.0)  # type: ignore[arg-type]
    app = mediator(cache, run)
    for number in (1, 2):
        assert (await app.send(Ask(5))).unwrap() == number
        await eventually(lambda: not cache._flights)  # the store was tried
    app = mediator(Caching(ttl=60.0), run)
    assert isinstance(error_of(await app.send(Ask(9))), HandlerError)


class SlowStore(MemoryStore):
    """Writes wait until `is_open`, or for `seconds`."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.seconds, self.is_open, self.puts = seconds, asyncio.Event(), dict[str, bytes]()

    async def put(self, key: str, value: bytes, ttl: float) -> None:
        assert self.puts.setdefault(key, value) == value
        await (asyncio.sleep(self.seconds) if self.seconds else self.is_open.wait())
        await super().put(key, value, ttl)


def test_a_program_that_ends_at_once_has_filled_its_cache() -> None:
    runs, store = list[int](), SlowStore(0.01)

    async def run(number: int) -> int:
        runs.append(number)
        return number

    app = mediator(Caching(store, ttl=60.0), run)
    assert [asyncio.run(app.send(Ask(5))).unwrap() for _ in range(3)] == [5, 5, 5]
    assert runs == [5]


async def test_equal_requests_run_once_though_a_write_takes_longer_than_its_value_is_good() -> None:
    """Nor does the older value, whenever it is stored, come after a newer one."""
    runs, store = list[int](), SlowStore()

    async def run(number: int) -> int:
        runs.append(number)
        await asyncio.sleep(0.01)
        return len(runs)

    cache = Caching(store, ttl=0.2)
    app = mediator(cache, run)
    assert (await app.send(Ask(5))).unwrap() == 1
    await eventually(lambda: not any(flight.is_fresh(0.2) for flight in cache._flights.values()))
    answers = await asyncio.gather(*(app.send(Ask(5)) for _ in range(100)))
    assert {answer.unwrap() for answer in answers} == {2}
    assert len(store.puts) == 1
    store.is_open.set()
    await eventually(lambda: not cache._writing)
    assert cache._flights == {}
    assert await store.get(next(iter(store.puts))) is None  # it is older than the store knows


async def test_nobody_waits_for_a_write_and_their_number_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    store = SlowStore()
    cache = Caching(store, ttl=60.0)
    app = mediator(cache, echo)
    for number in range(MAX_WRITES + 3):
        assert (await app.send(Ask(number))).unwrap() == number
    assert len(cache._flights) == len(cache._writing) == MAX_WRITES
    assert caplog.text.count("values wait to be stored already") == 3
    assert (await app.send(Ask(7))).unwrap() == 7  # before the store has it
    await eventually(lambda: len(store.puts) == MAX_WRITES)
    store.is_open.set()
    await eventually(lambda: not cache._flights)
    assert {await store.get(key) == value for key, value in store.puts.items()} == {True}


async def test_what_a_newer_version_cached_is_a_miss() -> None:
    store = MemoryStore()
    app = mediator(Caching(store, ttl=60.0, key=lambda m: "k"), echo)
    await store.put(f"cache:{Ask.__module__}.Ask:'k'", b"\xa5hello", 60.0)
    assert (await app.send(Ask(4))).unwrap() == 4


class Address(pydantic.BaseModel):
    street: str
    note: str = pydantic.Field("", repr=False)


class Page(pydantic.BaseModel, Request[str]):
    number: int
    tenant: pydantic.SecretStr = pydantic.SecretStr("")
    address: Address = Address(street="s")
    path: Path = Path()


async def test_requests_that_differ_in_anything_share_no_answer() -> None:
    app = Mediator()
    app.behavior(Caching(ttl=60.0))
    runs: list[Page] = []

    @app.handler
    def page(request: Page) -> str:
        runs.append(request)
        return str(len(runs))

    pages = [
        Page(number=1),
        Page(number=1, tenant=pydantic.SecretStr("a")),
        Page(number=1, tenant=pydantic.SecretStr("b")),
        Page(number=1, address=Address(street="s", note="n")),
        Page(number=1, path=Path("p")),
    ]
    for _ in range(2):
        assert [(await app.send(page)).unwrap() for page in pages] == ["1", "2", "3", "4", "5"]
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
    app = mediator(letters, echo)
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
