"""What happens in a history, worked out from a seed: who takes part, the load, and the faults.

A seed gives one plan. It does not give one history: processes and brokers have their own timing.
"""

import random
from collections.abc import Callable, Iterator

import msgspec

CALM = 10.0
"""Seconds without load and faults at the end: by then everybody must know everybody."""
QUIET = 2.0
"""Seconds without faults after the start, and before the calm."""
MAX_BROKER_FAULTS = 2
MAX_RESETS_IN_BURST = 3
BROKER = "broker"


class WorkerPlan(msgspec.Struct, frozen=True):
    """One worker process."""

    node: str
    service: str
    max_concurrency: int
    max_queue: int
    proxied: bool


class CallerPlan(msgspec.Struct, frozen=True):
    """One caller process: `rate` calls a second, of which a share is cancelled by the caller."""

    node: str
    rate: float
    observe_only: bool
    proxied: bool
    cancelled: float


class FaultPlan(msgspec.Struct, frozen=True):
    """Do `what` to `target`, `at` seconds after the start, and undo it `lasts` seconds later."""

    at: float
    target: str
    what: str
    lasts: float


class Plan(msgspec.Struct, frozen=True):
    """All of it. Bursts are faults of the target ``load``, made by the callers."""

    seed: int
    seconds: float
    workers: tuple[WorkerPlan, ...]
    callers: tuple[CallerPlan, ...]
    faults: tuple[FaultPlan, ...]


def plan(seed: int, seconds: float) -> Plan:
    """The plan of this seed."""
    rng = random.Random(seed)
    workers = tuple(_worker(rng, number) for number in range(rng.randint(3, 5)))
    rate = rng.uniform(50.0, 120.0)
    callers = (
        CallerPlan("c0", rate / 2, observe_only=True, proxied=False, cancelled=0.02),
        CallerPlan("c1", rate / 2, observe_only=False, proxied=True, cancelled=0.02),
    )
    faults = tuple(_faults(rng, seconds, workers))
    return Plan(seed, seconds, workers, callers, faults)


def _worker(rng: random.Random, number: int) -> WorkerPlan:
    return WorkerPlan(
        node=f"w{number}",
        service=("mail", "bill")[number % 2],
        max_concurrency=rng.randint(4, 16),
        max_queue=rng.randint(4, 32),
        proxied=number % 2 == 0 or rng.random() < 0.3,
    )


def _faults(rng: random.Random, seconds: float, workers: tuple[WorkerPlan, ...]) -> Iterator[FaultPlan]:
    """One after the other at random times; two may be under way at once, but not of one target."""
    free_at: dict[str, float] = {}
    broker_faults = 0
    at = QUIET + rng.uniform(0.0, 1.0)
    while at < seconds - QUIET:
        target, what, lasts = _draw(rng, workers)
        is_allowed = free_at.get(target, 0.0) <= at and (target != BROKER or broker_faults < MAX_BROKER_FAULTS)
        if is_allowed:
            lasts = min(lasts, seconds - QUIET - at + 0.5)
            broker_faults += target == BROKER
            free_at[target] = at + lasts + 1.0
            yield FaultPlan(round(at, 3), target, what, round(lasts, 3))
            if what == "burst":
                yield from _resets(rng, at, lasts, workers)
            at += rng.expovariate(1 / 2.5)
        at += 0.05


def _resets(rng: random.Random, at: float, lasts: float, workers: tuple[WorkerPlan, ...]) -> Iterator[FaultPlan]:
    """Broken links of workers that are full, or were a moment ago."""
    proxied = [worker.node for worker in workers if worker.proxied]
    for _ in range(rng.randint(0, MAX_RESETS_IN_BURST)):
        yield FaultPlan(round(at + rng.uniform(0.02, lasts + 0.2), 3), rng.choice(proxied), "reset", 0.0)


def _draw(rng: random.Random, workers: tuple[WorkerPlan, ...]) -> tuple[str, str, float]:
    """(target, what, seconds) of one fault."""
    worker = rng.choice(workers)
    choices: list[tuple[float, Callable[[], tuple[str, str, float]]]] = [
        (3, lambda: (worker.node, "kill", rng.uniform(0.1, 3.0))),
        (2, lambda: (worker.node, "terminate", rng.uniform(0.1, 2.0))),
        (3, lambda: (worker.node, "freeze", rng.uniform(0.5, 9.0))),
        (3, lambda: ("load", "burst", rng.uniform(0.3, 2.5))),
        (1, lambda: ("c1", "reset", 0.0)),
        (1, lambda: (BROKER, "kill", rng.uniform(0.05, 4.0))),
        (1, lambda: (BROKER, "freeze", rng.uniform(1.0, 8.0))),
    ]
    if worker.proxied:
        choices += [
            (4, lambda: (worker.node, "reset", 0.0)),
            (2, lambda: (worker.node, "cut", rng.uniform(0.5, 4.0))),
            (2, lambda: (worker.node, "half-open", rng.uniform(0.5, 8.0))),
        ]
    weights, makers = zip(*choices, strict=True)
    made = rng.choices(makers, weights)[0]()
    return made[0], made[1], made[2]
