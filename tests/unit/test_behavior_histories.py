"""What each behavior that keeps nothing in a store promises, in histories with cancellations and deadlines."""

import asyncio
from collections import defaultdict
from typing import Any

from behavior_histories import World, histories, now
from history_plan import (
    BUG,
    CANCELLED,
    ERROR,
    EVENTS,
    HANDLERS,
    OWN_CANCEL,
    PASSING,
    REQUESTS,
    VALUE,
    Brief,
    Call,
    Look,
    Plain,
    Run,
    code_of,
)

from catga.errors import Execution
from catga.mediator.behaviors import CircuitBreaker, ConcurrencyLimit, Logging, RateLimit, Retry, Timeout, Validation
from catga.mediator.behaviors.logs import FAILED, HANDLED

ALL = REQUESTS + EVENTS
NAMES = ("ask", *HANDLERS)
EPSILON = 1e-6


@histories
async def test_retry(world: World, seeds: list[int]) -> None:
    timeout = [Timeout(0.03)] if world.rng.random() < 0.5 else []
    world.app(Retry(3, base=0.01, on=Exception), *timeout)
    await world.play(seeds, world.some())
    world.check()
    for call in world.calls:
        world.is_whole(call)
        for name in NAMES:
            check_tries(call, call.runs_of(name), has_timeout=bool(timeout))


def check_tries(call: Call, runs: list[Run], *, has_timeout: bool) -> None:
    assert len(runs) <= 3
    for run, following in zip(runs, [*runs[1:], None], strict=False):
        may_follow = run.ends == ERROR and run.how.ends in (PASSING, BUG) and not run.was_cancelled
        if call.cls is Look and has_timeout and run.was_cancelled and run.ends != VALUE:
            may_follow = True
        assert may_follow or following is None, (call.seed, run)
        is_over = len(runs) == 3 or call.was_cancelled or call.timeout or call.cls is Brief
        assert not may_follow or following is not None or is_over, (call.seed, run)


@histories
async def test_timeout(world: World, seeds: list[int]) -> None:
    world.app(Timeout(0.03))
    await world.play(seeds, world.some())
    world.check()
    for run in world.runs:
        assert run.was_cancelled or run.ended - run.began <= 0.03 + EPSILON
    for call in world.calls:
        world.is_whole(call)
        cut_off = [run for run in call.runs if run.was_cancelled and run.ends != VALUE]
        if cut_off and not call.was_cancelled and len(call.runs) == 1:
            error = call.result.error
            assert (error.code, error.is_retryable) == ("timeout", call.cls is Look)


@histories
async def test_validation(world: World, seeds: list[int]) -> None:
    async def late(message: Any) -> None:
        await asyncio.sleep(0.01)
        refuse(message)

    def refuse(message: Any) -> None:
        if message.content:
            raise (ValueError if message.key else TypeError)(message)

    world.app(Validation(late if world.rng.random() < 0.5 else refuse))
    await world.play(seeds, world.some())
    world.check()
    assert not [run for run in world.runs if run.message.content]
    for call in world.calls:
        if call.message.content:
            is_short = call.cls is Brief or call.timeout is not None
            codes = {
                "handler_error" if call.is_event else "invalid_message",
                "timeout" if is_short else "invalid_message",
            }
            assert call.cancelled or code_of(call) in codes
        else:
            world.is_whole(call)


@histories
async def test_logging(world: World, seeds: list[int]) -> None:
    ended: list[Run] = []
    world.on_end = ended.append
    world.app(Logging())
    await world.play(seeds, world.some())
    world.check()
    lines = [line for line in world.lines.records if line.msg in (HANDLED, FAILED)]
    for run, line in zip(ended, lines, strict=True):
        went_well = run.ends == VALUE
        assert line.msg == (HANDLED if went_well else FAILED)
        is_cancelled = run.ends == CANCELLED or (not run.was_cancelled and run.how.ends == OWN_CANCEL)
        if not went_well:
            assert (vars(line)["catga_error"] == "cancelled") == is_cancelled


# -- limits ---------------------------------------------------------------------------------------------------


def check_refused_as_a_whole(call: Call, code: str) -> None:
    if code_of(call) == code:
        assert not call.runs
        assert call.is_event or call.result.error.execution is Execution.ANSWERED


@histories
async def test_concurrency_limit(world: World, seeds: list[int]) -> None:
    most, waiting = world.rng.choice((1, 2)), world.rng.choice((0, 1, 4))
    limit = ConcurrencyLimit(most, waiting=waiting)
    world.app(limit)
    begun: list[Call] = []
    crowd: dict[Call, int] = {}

    def count(call: Call) -> None:
        crowd[call] = sum(not each.is_over for each in begun)
        begun.append(call)

    def check(run: Run) -> None:
        assert len({each.call for each in world.runs if not each.ends}) <= most

    world.on_call, world.on_begin = count, check
    await world.play(seeds, world.some())
    world.check()
    for call in world.calls:
        check_refused_as_a_whole(call, "overloaded")
        if call in crowd:
            assert (code_of(call) == "overloaded") == (crowd[call] >= most + waiting)
        world.is_whole(call)
    first_runs = [call.runs[0].number for call in begun if call.runs]
    assert most > 1 or first_runs == sorted(first_runs)  # of an event at once, the handlers begin a turn later
    places = limit._here()
    assert (places.free, places.waiting) == (most, 0)


class Bucket:
    """What a token bucket must do."""

    def __init__(self, rate: float, burst: int) -> None:
        self.rate, self.burst = rate, burst
        self.tokens, self.since = float(burst), now()

    def take(self) -> bool:
        self.tokens = min(self.burst, self.tokens + (now() - self.since) * self.rate)
        self.since = now()
        if self.tokens < 1 - 1e-9:
            return False
        self.tokens -= 1
        return True


@histories
async def test_rate_limit(world: World, seeds: list[int]) -> None:
    rate, burst = world.rng.choice((1.0, 10.0)), world.rng.choice((1, 2, 3))
    limit = RateLimit(rate, burst=burst, key=lambda m: m.key, clock=asyncio.get_running_loop().time)
    world.app(limit)
    buckets: defaultdict[int, Bucket] = defaultdict(lambda: Bucket(rate, burst))
    admitted: dict[Call, bool] = {}
    world.on_call = lambda call: admitted.update({call: buckets[call.message.key].take()})
    await world.play(seeds, world.some())
    world.check()
    for call, is_in in admitted.items():
        check_refused_as_a_whole(call, "rate_limited")
        assert (code_of(call) != "rate_limited") == is_in, call.seed
        assert not is_in or call.runs
        world.is_whole(call)
    assert {key: tokens for key, (tokens, _) in limit._buckets.items()} == {
        key: bucket.tokens for key, bucket in buckets.items()
    }


# -- circuits -------------------------------------------------------------------------------------------------

RESET = 0.02


class Circuit:
    """What a circuit must do that opens after so many failures in a row."""

    def __init__(self, most: int) -> None:
        self.most, self.failures, self.open_until = most, 0, -1.0
        self.is_open = False
        self.probe: Run | None = None

    def lets_in(self) -> bool:
        return not self.is_open or (now() >= self.open_until and self.probe is None)

    def begin(self, run: Run) -> None:
        assert self.lets_in()
        if self.is_open:
            self.probe = run

    def end(self, run: Run) -> None:
        is_probe, self.probe = run is self.probe, None if run is self.probe else self.probe
        if run.ends == CANCELLED or (run.error is not None and not isinstance(run.error, Exception)):
            return
        if run.ends == VALUE and (is_probe or not self.is_open):
            self.is_open, self.failures = False, 0
        elif run.ends == ERROR:
            self.failures += not self.is_open
            if is_probe or (not self.is_open and self.failures >= self.most):
                self.is_open, self.open_until = True, now() + RESET


@histories
async def test_circuit_breaker(world: World, seeds: list[int]) -> None:
    most = world.rng.choice((1, 2))
    breaker = CircuitBreaker(most, reset=RESET, clock=asyncio.get_running_loop().time)
    world.app(breaker)
    circuits: defaultdict[tuple[type, str], Circuit] = defaultdict(lambda: Circuit(most))
    is_let_in: dict[Call, bool] = {}

    def circuit_of(run: Run) -> Circuit:
        return circuits[type(run.message), run.handler]

    world.on_begin = lambda run: circuit_of(run).begin(run)
    world.on_end = lambda run: circuit_of(run).end(run)
    world.on_call = lambda call: is_let_in.update({call: circuits[call.cls, request_handler(call)].lets_in()})
    await world.play(seeds, world.some())
    world.check()
    for call, let_in in is_let_in.items():
        if not call.is_event:
            assert bool(call.runs) == let_in
            assert (code_of(call) == "circuit_open") == (not let_in)
    assert not any(circuit.probing for circuit in breaker._circuits.values())
    await asyncio.sleep(RESET)
    for cls in ALL:
        for _ in range(2):
            assert (await world.call(cls)).is_success
    assert all(circuit.open_until is None for circuit in breaker._circuits.values())


def request_handler(call: Call) -> str:
    return "plain" if call.cls is Plain else "ask"
