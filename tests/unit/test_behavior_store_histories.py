"""What the behaviors with a store promise, in histories with cancellations, deadlines, and faults of the store."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from behavior_histories import World, histories, many_histories
from history_plan import (
    CANCELLED,
    DAY,
    ERROR,
    EVENTS,
    HANDLERS,
    OWN_CANCEL,
    REQUESTS,
    VALUE,
    Brief,
    Call,
    Run,
    code_of,
)
from history_stores import Faults, FaultyLetters, FaultyStore

from catga import Failure, Success
from catga.codec import Codec
from catga.mediator.behaviors import Caching, DeadLetter, DeadLetters, Idempotency

EPSILON = 1e-6


def by_key(runs: Iterable[Run]) -> "dict[Any, list[Run]]":
    found: defaultdict[Any, list[Run]] = defaultdict(list)
    for run in runs:
        found[run.key].append(run)
    return found


def expect_one_at_a_time(runs: Iterable[Run]) -> None:
    """They stand in the order in which they began."""
    for run, following in pairwise(runs):
        assert run.ended <= following.began, (run, following)


def is_in_time(call: Call) -> bool:
    """Whether neither its publisher nor its deadline can have ended it."""
    return not (call.was_cancelled or call.timeout or call.cls is Brief)


# -- Idempotency ----------------------------------------------------------------------------------------------

LEASE, WAIT = 1.0, 0.3
PAUSE = 0.5
"""Seconds after which a duplicate looks again, at most."""


@many_histories
async def test_idempotency(world: World, seeds: list[int]) -> None:
    store, lease = FaultyStore(Faults(world.rng)), world.rng.choice((LEASE, 30.0))
    ways = [Idempotency(store, key=lambda m: m.key, ttl=DAY, lease=lease, wait=WAIT) for _ in range(2)]
    for way in ways:
        world.app(way)
    await world.play(seeds, world.some())
    world.check(shared=True)
    await asyncio.sleep(0)
    doubted = {store_key(ways[0], run) for run in world.runs if run.is_in_doubt}
    for key in store.claims():
        assert key in doubted or store.faults.hit(key, "add", "put", "discard"), "a claim is left"
    for runs in by_key(world.runs).values():
        check_once(runs, store, ways[0], lease)
    for call in world.calls:
        check_duplicate(call, store)
        if code_of(call) == "in_progress" and not call.is_event:
            expect_in_progress(world, call, store, ways[0])
    store.faults.rate = 0.0
    await asyncio.sleep(2 * lease + 1.0)
    for runs in by_key(list(world.runs)).values():
        await check_remembered(world, runs, store, ways[0])


def store_key(way: Idempotency, run: Run) -> str:
    return way._key_of(run.message, Codec(type(run.message)), f"{World.__module__}.{run.handler}")


def check_once(runs: list[Run], store: FaultyStore, way: Idempotency, lease: float) -> None:
    expect_one_at_a_time(runs)
    assert all(run.ended - run.began <= lease + 0.02 + EPSILON for run in runs)
    for run, following in pairwise(runs):
        if run.ends == VALUE:
            assert store.faults.hit(store_key(way, run), "put"), "it ran again"
        if run.ends == VALUE or (run.is_in_doubt and run.ended < run.began + lease - EPSILON):
            assert following.began >= run.began + lease


def check_duplicate(call: Call, store: FaultyStore) -> None:
    code = code_of(call)
    assert code != "store" or store.faults.seen or any(run.ends == ERROR for run in call.runs)
    took = (call.ended or 0.0) - (call.began or 0.0)
    assert code != "in_progress" or took >= WAIT - EPSILON
    assert call.is_event or call.runs or store.faults.seen or took <= WAIT + PAUSE + EPSILON
    if isinstance(call.result, Failure) and is_in_time(call) and not call.runs and not store.faults.seen:
        assert code in ("in_progress", "invalid_message", "handler_error")


def expect_in_progress(world: World, call: Call, store: FaultyStore, way: Idempotency) -> None:
    """An equal message ran while `call` waited, unless the store kept a claim."""
    runs = [run for run in world.runs if run.message == call.message]
    ran = any(run.began <= (call.ended or 0.0) and run.ended >= (call.began or 0.0) for run in runs)
    key = way._key_of(call.message, Codec(call.cls), "")
    is_doubted = any(run.is_in_doubt for run in runs)
    assert ran or is_doubted or store.faults.hit(key, "add", "put", "discard"), call.seed


async def check_remembered(world: World, runs: list[Run], store: FaultyStore, way: Idempotency) -> None:
    """Afterwards the key is free, or has the value of the run that went well."""
    run = runs[-1]
    if store.faults.hit(store_key(way, run), "put") or type(run.message) in EVENTS:
        return
    count, message = len(world.runs), run.message
    result = await world.call(type(message), 1, key=message.key, content=message.content)
    assert result.unwrap() == (run.number if run.ends == VALUE else count)
    assert (len(world.runs) == count) == (run.ends == VALUE)


# -- Caching --------------------------------------------------------------------------------------------------

TTL = 0.5


@histories
async def test_caching(world: World, seeds: list[int]) -> None:
    store = FaultyStore(Faults(world.rng, loss=True))
    caches = [Caching(store, ttl=TTL) for _ in range(2)]
    for cache in caches:
        world.app(cache)
    await world.play(seeds, world.some())
    world.check()
    assert [cache._flights for cache in caches] == [{}, {}]
    flights: defaultdict[Any, list[Run]] = defaultdict(list)
    for run in world.runs:
        if type(run.message) in REQUESTS:
            flights[run.app, run.message].append(run)
    for runs in flights.values():
        expect_one_at_a_time(runs)
        for run, following in pairwise(runs):
            is_kept = run.ends == VALUE and not store.faults.seen and is_in_time(run.call)
            assert not is_kept or following.began >= run.ended + TTL - EPSILON
        expect_shared_failures(runs)
    for call in world.calls:
        check_shared(world, call)


def expect_shared_failures(runs: list[Run]) -> None:
    """Who came while one ran that failed has its failure, and does not run."""
    for run in runs:
        if run.ends == ERROR and (run.how.ends != OWN_CANCEL or run.was_cancelled):
            for other in runs:
                assert not run.began < (other.call.began or 0.0) < run.ended or other.call.runs[0] is not other


def check_shared(world: World, call: Call) -> None:
    """A failure is that of the own run, or of one that ran at the same time."""
    if call.is_event or not isinstance(call.result, Failure):
        return
    error = call.result.error
    if call.runs:
        own = call.runs[-1]
        assert own.ends == ERROR or call.timeout
        return
    others = [run for run in world.runs if run.message == call.message and run.ends == ERROR]
    others = [run for run in others if run.how.ends != OWN_CANCEL or run.was_cancelled]
    assert call.timeout or [run for run in others if (call.began or 0.0) <= run.ended <= (call.ended or 0.0)], error


# -- DeadLetters ----------------------------------------------------------------------------------------------


@histories
async def test_dead_letters(world: World, seeds: list[int]) -> None:
    store = FaultyLetters(Faults(world.rng))
    ways = [DeadLetters(store) for _ in range(2)]
    for way in ways:
        world.app(way)

    async def replay(call: Call) -> Any:
        found = await store.list(100)
        if not found:
            return None
        call.letter = found[call.pick // 2 % len(found)]
        number = call.pick % 2
        return await ways[number].replay(world.apps[number], call.letter.id)

    world.replay = replay
    await world.play(seeds, (*EVENTS, *[DeadLetters] * 4), unique=True)
    world.check()
    check_letters(world, store)
    replays = [call for call in world.calls if call.letter is not None]
    check_replays(replays, store)
    assert [(way._writes, way._replayed) for way in ways] == [(0, set()), (0, set())]
    for letter_id in store.claims.inner._added:
        assert store.faults.hit(letter_id, "claim", "release"), "a letter is claimed"


def short(name: str) -> str:
    return name.rpartition(".")[2]


def check_letters(world: World, store: FaultyLetters) -> None:
    letters: defaultdict[tuple[int, str], dict[str, DeadLetter]] = defaultdict(dict)
    for letter in store.written:
        cls = next(cls for cls in EVENTS if letter.name.endswith(f".{cls.__name__}"))
        letters[Codec(cls).decode(letter.body).number, short(letter.handler)].setdefault(letter.id, letter)
    lost: Counter[tuple[str, str]] = Counter()
    for line in world.lines.records:
        if "could not be kept" in line.msg:
            lost[short(vars(line)["catga_message"]), short(vars(line)["catga_handler"])] += 1
    missing: Counter[tuple[str, str]] = Counter()
    for call in world.calls:
        if call.is_event and call.began is not None:
            for handler in HANDLERS:
                found = list(letters[call.number, handler].values())
                check_letter(call, handler, found)
                is_missing = not found and letter_code(call, handler) is not None
                missing[call.cls.__name__, handler] += is_missing
    for key, count in missing.items():
        assert count <= lost[key], f"neither a letter nor a line: {key}"


def letter_code(call: Call, handler: str) -> str | None:
    """The code that the letter must have; None without a letter, empty if it is the error's."""
    runs = call.runs_of(handler)
    if not runs:
        return "not_reached"
    if runs[-1].ends == CANCELLED or (runs[-1].how.ends == OWN_CANCEL and not runs[-1].was_cancelled):
        return "cancelled"
    return None if runs[-1].ends == VALUE else ""


def check_letter(call: Call, handler: str, found: list[DeadLetter]) -> None:
    expected = letter_code(call, handler)
    assert len(found) <= (expected is not None), (call.seed, handler, found)
    if found:
        assert found[0].code == expected or not expected
        assert found[0].attempts == 1


def check_replays(replays: list[Call], store: FaultyLetters) -> None:
    runs: defaultdict[str, list[Run]] = defaultdict(list)
    for call in replays:
        assert len(call.runs) <= 1
        assert all(run.handler == short(call.letter.handler) for run in call.runs)
        runs[call.letter.id] += call.runs
        went_well = any(run.ends == VALUE for run in call.runs)
        if isinstance(call.result, Success):
            assert went_well
        elif not call.cancelled:
            assert not went_well or store.faults.hit(call.letter.id, "remove"), call.result
    for letter_id, of_letter in runs.items():
        of_letter.sort(key=lambda run: run.number)
        expect_one_at_a_time(of_letter)
        if not of_letter or store.faults.hit(letter_id, "remove", "put", "get"):
            continue
        assert VALUE not in [run.ends for run in of_letter[:-1]], "a letter whose replay went well was replayed"
        left = store.inner._letters.get(letter_id)
        assert (left is None) == (of_letter[-1].ends == VALUE)
        assert left is None or left.attempts == 1 + len(of_letter)
