"""What behaviors do around events: limits count an event once, and a replay runs one handler's path."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from catga import Event, Mediator, Request, message
from catga.errors import CatgaTimeoutError, HandlerNotFoundError, InProgressError, OverloadedError, RateLimitedError
from catga.mediator import Router
from catga.mediator.behaviors import (
    ConcurrencyLimit,
    DeadLetters,
    Idempotency,
    MemoryDeadLetters,
    RateLimit,
    Retry,
)
from catga.testing import ManualClock, eventually


@dataclass(frozen=True)
class Happened(Event):
    number: int = 0


@message(concurrent=True)
@dataclass(frozen=True)
class AtOnce(Event):
    number: int = 0


@dataclass(frozen=True)
class Ask(Request[int]):
    number: int = 0


class Shop:
    """An app with four handlers of each event, two of them of a router, behind `behaviors`."""

    def __init__(self, *behaviors: Any, inside: tuple[Any, ...] = ()) -> None:
        self.app, router = Mediator(), Router()
        self.ran: list[str] = []
        self.fails: set[str] = set()
        self.gate: asyncio.Event | None = None
        for behavior in behaviors:
            self.app.behavior(behavior)
        for behavior in inside:
            router.behavior(behavior)
        for name, where in (("a", self.app), ("b", self.app), ("c", router), ("d", router)):
            for cls in (Happened, AtOnce):
                where.handles(cls)(self._handler(name))
        self.app.include(router)

    def _handler(self, name: str) -> Callable[[Any], Any]:
        async def handle(event: Any) -> None:
            self.ran.append(name)
            if self.gate is not None:
                await self.gate.wait()
            if name in self.fails:
                raise ValueError(name)

        handle.__qualname__ = name
        return handle


events = pytest.mark.parametrize("event", [Happened(), AtOnce()], ids=["in order", "at once"])


@events
@pytest.mark.parametrize("is_inside", [False, True], ids=["of the app", "of a router"])
async def test_an_event_takes_one_token_and_is_handled_as_a_whole(event: Event, is_inside: bool) -> None:
    limit = RateLimit(2, burst=2, clock=ManualClock())
    shop = Shop(inside=(limit,)) if is_inside else Shop(limit)
    assert [(await shop.app.publish(event)).is_success for _ in range(2)] == [True, True]
    assert shop.ran == ["a", "b", "c", "d"] * 2
    refused = await shop.app.publish(event)
    assert isinstance(refused.error, RateLimitedError)  # type: ignore[union-attr]
    assert len(shop.ran) == 8


@events
async def test_an_event_holds_one_place_until_its_last_handler_has_ended(event: Event) -> None:
    shop = Shop(ConcurrencyLimit(2, waiting=0))
    shop.gate = asyncio.Event()
    two = [asyncio.ensure_future(shop.app.publish(event)) for _ in range(2)]
    await eventually(lambda: shop.ran.count("a") == 2)
    third = await shop.app.publish(event)
    assert isinstance(third.error, OverloadedError)  # type: ignore[union-attr]
    shop.gate.set()
    assert [(await each).is_success for each in two] == [True, True]
    assert (await shop.app.publish(event)).is_success
    assert sorted(shop.ran) == sorted(["a", "b", "c", "d"] * 3)


async def test_one_limit_in_two_places_counts_an_event_once() -> None:
    limit = RateLimit(1, burst=1, clock=ManualClock())
    shop = Shop(limit, inside=(limit,))
    assert (await shop.app.publish(Happened())).is_success
    assert not (await shop.app.publish(Happened())).is_success


async def test_a_failure_inside_of_a_limit_is_told_as_without_it() -> None:
    plain, limited = Shop(), Shop(ConcurrencyLimit(1))
    for shop in (plain, limited):
        shop.fails = {"b", "d"}
    errors = [(await shop.app.publish(Happened())).error for shop in (plain, limited)]  # type: ignore[union-attr]
    assert [(e.code, e.message, e.details) for e in errors] == [
        (errors[0].code, errors[0].message, errors[0].details)
    ] * 2
    assert limited.ran == ["a", "b", "c", "d"]


async def test_an_event_whose_turn_does_not_come_leaves_a_letter_for_each_handler() -> None:
    letters = DeadLetters()
    shop = Shop(letters, ConcurrencyLimit(1))
    shop.gate = asyncio.Event()
    first = asyncio.ensure_future(shop.app.publish(Happened(1)))
    await eventually(lambda: shop.ran)
    late = await shop.app.publish(Happened(2), timeout=0.02)
    assert isinstance(late.error, CatgaTimeoutError)  # type: ignore[union-attr]
    assert len(late.error.details["not_reached"]) == 4  # type: ignore[union-attr]
    assert [letter.code for letter in await letters.list()] == ["not_reached"] * 4
    shop.gate.set()
    assert (await first).is_success
    shop.ran.clear()
    for letter in await letters.list():
        assert (await letters.replay(shop.app, letter.id)).is_success
    assert sorted(shop.ran) == ["a", "b", "c", "d"]
    assert await letters.list() == []


async def test_requests_pass_a_limit_as_a_step() -> None:
    app = Mediator()
    app.behavior(RateLimit(1, burst=1, clock=ManualClock()))

    @app.handler
    def ask(request: Ask) -> int:
        return request.number

    assert (await app.send(Ask(1))).unwrap() == 1
    assert isinstance((await app.send(Ask(2))).error, RateLimitedError)  # type: ignore[union-attr]


# -- replays ----------------------------------------------------------------------------------------------


@events
@pytest.mark.parametrize("order", ["outside", "inside", "of a router"])
async def test_a_replay_runs_one_handlers_path_and_marks_no_other_as_done(event: Event, order: str) -> None:
    once, letters = Idempotency(key=lambda event: event.number), DeadLetters()
    shop = {
        "outside": lambda: Shop(once, letters),
        "inside": lambda: Shop(letters, once),
        "of a router": lambda: Shop(once, inside=(letters,)),
    }[order]()
    shop.fails = {"a", "b", "c", "d"}
    await shop.app.publish(event)
    kept = await letters.list()
    assert (
        sorted(letter.handler.rpartition(".")[2] for letter in kept) == ["c", "d"]
        if order == "of a router"
        else list("abcd")
    )
    shop.fails, shop.ran = set(), []
    for number, letter in enumerate(kept, 1):
        assert (await letters.replay(shop.app, letter.id)).is_success
        assert len(shop.ran) == number
    assert len(set(shop.ran)) == len(kept)
    assert await letters.list() == []
    done = len(shop.ran)
    await shop.app.publish(event)
    assert len(shop.ran) == 4 if order == "of a router" else done


async def test_a_letter_that_is_replayed_twice_at_once_runs_once() -> None:
    shop = Shop(letters := DeadLetters())
    shop.fails = {"a"}
    await shop.app.publish(Happened())
    (letter,) = await letters.list()
    shop.fails, shop.ran, shop.gate = set(), [], asyncio.Event()
    first = asyncio.ensure_future(letters.replay(shop.app, letter.id))
    await eventually(lambda: shop.ran)
    second = await letters.replay(shop.app, letter.id)
    assert isinstance(second.error, InProgressError)  # type: ignore[union-attr]
    shop.gate.set()
    assert (await first).is_success
    assert shop.ran == ["a"]
    assert "no dead letter" in str((await letters.replay(shop.app, letter.id)).error)  # type: ignore[union-attr]


async def test_two_processes_that_share_a_store_replay_a_letter_once() -> None:
    store = MemoryDeadLetters()
    shops = [Shop(letters := DeadLetters(store)), Shop(others := DeadLetters(store))]
    shops[0].fails = {"a"}
    await shops[0].app.publish(Happened())
    (letter,) = await letters.list()
    for shop in shops:
        shop.fails, shop.ran, shop.gate = set(), [], asyncio.Event()
    first = asyncio.ensure_future(letters.replay(shops[0].app, letter.id))
    await eventually(lambda: shops[0].ran)
    second = await others.replay(shops[1].app, letter.id)
    assert isinstance(second.error, InProgressError)  # type: ignore[union-attr]
    shops[0].gate.set()  # type: ignore[union-attr]
    assert (await first).is_success
    assert (shops[0].ran, shops[1].ran) == (["a"], [])


async def test_a_letter_that_is_discarded_in_a_failing_replay_stays_discarded() -> None:
    shop = Shop(letters := DeadLetters())
    shop.fails = {"a"}
    await shop.app.publish(Happened())
    (letter,) = await letters.list()
    shop.ran, shop.gate = [], asyncio.Event()
    replay = asyncio.ensure_future(letters.replay(shop.app, letter.id))
    await eventually(lambda: shop.ran)
    await letters.discard(letter.id)
    shop.gate.set()
    assert not (await replay).is_success
    assert await letters.list() == []


async def test_a_replay_that_was_cancelled_can_be_made_again() -> None:
    shop = Shop(letters := DeadLetters())
    shop.fails = {"a"}
    await shop.app.publish(Happened())
    (letter,) = await letters.list()
    shop.fails, shop.ran, shop.gate = set(), [], asyncio.Event()
    replay = asyncio.ensure_future(letters.replay(shop.app, letter.id))
    await eventually(lambda: shop.ran)
    replay.cancel()
    with pytest.raises(asyncio.CancelledError):
        await replay
    shop.gate.set()
    assert (await letters.replay(shop.app, letter.id)).is_success
    assert shop.ran == ["a", "a"]


async def test_a_replay_passes_the_limits_and_the_retries_around_its_handler() -> None:
    limit = RateLimit(1, burst=2, clock=ManualClock())
    shop = Shop(letters := DeadLetters(), limit, Retry(2, base=0.0, on=ValueError))
    shop.fails = {"a"}
    await shop.app.publish(Happened())
    (letter,) = await letters.list()
    shop.ran.clear()
    assert not (await letters.replay(shop.app, letter.id)).is_success
    assert shop.ran == ["a", "a"]
    (kept,) = await letters.list()
    assert kept.attempts == 2
    assert isinstance((await letters.replay(shop.app, letter.id)).error, RateLimitedError)  # type: ignore[union-attr]
    assert len(await letters.list()) == 1


async def test_a_letter_of_a_handler_that_is_gone_says_so() -> None:
    shop = Shop(letters := DeadLetters())
    shop.fails = {"a"}
    await shop.app.publish(Happened())
    (letter,) = await letters.list()
    other = Mediator()
    other.behavior(letters)

    @other.handler
    async def elsewhere(event: Happened) -> None: ...

    assert isinstance((await letters.replay(other, letter.id)).error, HandlerNotFoundError)  # type: ignore[union-attr]


# -- the pauses of `Retry` --------------------------------------------------------------------------------


async def test_a_retry_waits_as_long_as_the_refusal_says_and_logs_what_it_does(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = Mediator()
    app.behavior(Retry(3, base=0.0))
    app.behavior(RateLimit(20, burst=1))

    @app.handler
    def ask(request: Ask) -> int:
        return request.number

    with caplog.at_level(logging.WARNING, "catga.behaviors"):
        assert [(await app.send(Ask(n))).unwrap() for n in range(3)] == [0, 1, 2]
    records: list[Any] = [record for record in caplog.records if record.name == "catga.behaviors"]
    assert [(r.catga_message, r.catga_attempt, r.catga_error) for r in records] == [
        (f"{Ask.__module__}.Ask", 1, "rate_limited")
    ] * len(records)
    assert records
    assert all(0 < r.catga_seconds <= 0.05 for r in records)


async def test_callers_that_fit_into_places_and_queue_are_never_refused() -> None:
    app, refused = Mediator(), list[Any]()
    app.behavior(ConcurrencyLimit(1, waiting=1))

    @app.handler
    async def ask(request: Ask) -> int:
        await asyncio.sleep(0)
        return 1

    async def caller() -> None:
        for _ in range(20):  # the next one in the turn in which the last one gave its place back
            result = await app.send(Ask())
            refused.extend([] if result.is_success else [result])

    await asyncio.gather(caller(), caller())
    assert refused == []
