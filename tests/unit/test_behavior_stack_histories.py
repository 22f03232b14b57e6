"""What random stacks of behaviors promise together: cancellations, deadlines, and faults of stores as well."""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from behavior_histories import World, histories
from history_plan import DAY, EVENTS, HANDLERS, VALUE, Run
from history_stores import Faults, FaultyLetters, FaultyStore

from catga.codec import Codec
from catga.mediator.behaviors import (
    Caching,
    CircuitBreaker,
    ConcurrencyLimit,
    DeadLetters,
    Idempotency,
    Logging,
    RateLimit,
    Retry,
    Timeout,
    Validation,
)

LEASE = 1.0


class Parts:
    """One of each behavior, and what they share."""

    def __init__(self, world: World) -> None:
        clock = asyncio.get_running_loop().time
        self.faults = Faults(world.rng)
        self.store, self.cached = FaultyStore(self.faults), FaultyStore(self.faults)
        self.letters = DeadLetters(FaultyLetters(self.faults))
        self.once = Idempotency(self.store, key=lambda m: m.key, ttl=DAY, lease=LEASE, wait=0.6)
        self.cache = Caching(self.cached, ttl=0.5)
        self.places = ConcurrencyLimit(world.rng.choice((1, 3)), waiting=3)
        self.rate = RateLimit(20.0, burst=3, clock=clock)
        self.breaker = CircuitBreaker(3, reset=0.2, clock=clock)
        self.most = self.places._limit
        self.all: list[Any] = [
            self.letters,
            Logging(),
            self.rate,
            self.places,
            Validation(),
            self.cache,
            self.once,
            self.breaker,
            Retry(3, base=0.01, on=Exception),
            Timeout(0.1),
        ]

    def expect_nothing_left(self, runs: list[Run]) -> None:
        """No place, probe, claim, flight or letter is held."""
        places = self.places._here()
        assert (places.free, places.waiting) == (self.most, 0)
        assert not any(circuit.probing for circuit in self.breaker._circuits.values())
        assert not self.cache._flights
        assert (self.letters._writes, self.letters._replayed) == (0, set())
        # `Timeout` cuts off what must not run twice; what a run in doubt had claimed ends with its lease.
        doubted = {self.once._key_of(r.message, Codec(type(r.message)), handler_name(r)) for r in runs if may_be_cut(r)}
        for key in self.store.claims():
            assert key in doubted or self.faults.hit(key, "add", "put", "discard"), "a claim is left"


def handler_name(run: Run) -> str:
    return f"{World.__module__}.{run.handler}"


def may_be_cut(run: Run) -> bool:
    return run.is_in_doubt or (run.was_cancelled and not Codec(type(run.message)).idempotent)


def expect_once(runs: list[Run], *, is_reliable: bool) -> None:
    """Runs of one key never come together, and none comes after one that went well."""
    for run, following in pairwise(runs):
        assert run.ended <= following.began
        assert run.ends != VALUE or not is_reliable


def check_limit(most: int, world: World) -> Callable[[Run], None]:
    def check(run: Run) -> None:
        assert len({each.call for each in world.runs if not each.ends}) <= most

    return check


async def play(world: World, parts: Parts, behaviors: list[Any], seeds: list[int]) -> None:
    world.app(*behaviors)
    limits = [each for each in behaviors if isinstance(each, ConcurrencyLimit)]
    if limits:
        world.on_begin = check_limit(parts.most, world)
    await world.play(seeds, world.some())
    world.check(shared=True)
    parts.expect_nothing_left(world.runs)
    by_key: defaultdict[Any, list[Run]] = defaultdict(list)
    for run in world.runs:
        by_key[run.key].append(run)
    if parts.once in behaviors:
        for runs in by_key.values():
            expect_once(runs, is_reliable=not parts.faults.seen)
    if parts.letters in behaviors and not parts.faults.seen and behaviors[0] is parts.letters:
        await expect_letters(world, parts, is_shared=parts.once in behaviors)


async def expect_letters(world: World, parts: Parts, *, is_shared: bool) -> None:
    """DeadLetters is outermost: each handler of a cancelled event that did not go well has a letter."""
    found = [
        (letter.name.rpartition(".")[2], letter.handler.rpartition(".")[2]) for letter in await parts.letters.list()
    ]
    for cls in EVENTS:
        for handler in HANDLERS:
            calls = [call for call in world.calls if call.cls is cls and call.cancelled and call.began is not None]
            ends = [[run.ends for run in call.runs_of(handler)] for call in calls]
            failed = [each for each in ends if (each and each[-1] != VALUE) or not (each or is_shared)]
            assert found.count((cls.__name__, handler)) >= len(failed)


@histories
async def test_any_behaviors_in_any_order(world: World, seeds: list[int]) -> None:
    parts = Parts(world)
    await play(world, parts, world.rng.sample(parts.all, world.rng.randrange(2, 6)), seeds)


@histories
async def test_any_behaviors_in_the_order_of_the_documentation(world: World, seeds: list[int]) -> None:
    parts = Parts(world)
    await play(world, parts, [each for each in parts.all if world.rng.random() < 0.6], seeds)
