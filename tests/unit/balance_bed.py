"""Nodes that work, fail, refuse and hang, and one sender that balances between them: in a time that is computed."""

import heapq
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from catga import Request, message
from catga.abc import RoutingStrategy
from catga.cluster import OutlierEjection
from catga.cluster.outliers import NO_TRIAL, Kind, Outliers
from catga.errors import (
    CatgaError,
    CatgaTimeoutError,
    CircuitOpenError,
    Execution,
    HandlerError,
    OverloadedError,
    RateLimitedError,
)
from catga.node import NodeInfo
from catga.result import Failure, Success
from catga.routing import Candidates, Stats

TIMEOUT = 1.0
QUICK, USUAL, SLOW = 0.0005, 0.02, 0.3


@message(key="number", name="balance.Work")
@dataclass(frozen=True)
class Work(Request[int]):
    number: int


Answer = tuple[float, CatgaError | None]
Node = Callable[[float], Answer]
"""Called with the time at which a call arrives: returns when it ends, and by which error."""


def well(now: float) -> Answer:
    return now + USUAL, None


def fails_at_once(now: float) -> Answer:
    return now + QUICK, HandlerError("my database is down")


def is_slow_to_fail(now: float) -> Answer:
    return now + SLOW, HandlerError("my database does not answer")


def is_open(now: float) -> Answer:
    return now + QUICK, CircuitOpenError("failed 5 times in a row")


def is_full(now: float) -> Answer:
    return now + QUICK, OverloadedError("all places are taken")


def hangs(now: float) -> Answer:
    return now + TIMEOUT, CatgaTimeoutError("no answer")


def fails_in_part(part: float, seed: int = 0) -> Node:
    draws = random.Random(seed)
    return lambda now: fails_at_once(now) if draws.random() < part else well(now)


def rate_limited(rate: float = 10.0) -> Node:
    """As the `RateLimit` behavior, with a burst of as many as a second's."""
    tokens, since = rate, 0.0

    def node(now: float) -> Answer:
        nonlocal tokens, since
        tokens, since = min(rate, tokens + (now - since) * rate), now
        if tokens < 1:
            error = RateLimitedError("more than that a second")
            error.execution = Execution.ANSWERED  # a behavior's, as all that comes out of a pipeline
            return now + QUICK, error
        tokens -= 1
        return well(now)

    return node


def slow(now: float) -> Answer:
    return now + SLOW, None


def until(end: float, before: Node, after: Node = well) -> Node:
    return lambda now: before(now) if now < end else after(now)


def infos(ids: Iterable[str], zones: Mapping[str, str] | None = None) -> list[NodeInfo]:
    return [NodeInfo(node_id=node_id, metadata={"zone": (zones or {}).get(node_id, "")}) for node_id in ids]


@dataclass
class Sender:
    """One sender, its candidates, and what became of its calls."""

    strategy: RoutingStrategy
    nodes: dict[str, Node]
    settings: OutlierEjection = field(default_factory=OutlierEjection)
    local_id: str = ""
    zones: dict[str, str] = field(default_factory=dict[str, str])
    now: float = 1000.0

    def __post_init__(self) -> None:
        self.start = self.now
        self.stats = Stats(lambda _: 0.0, lambda: self.now)
        self.outliers = Outliers(self.settings, self.stats, clock=lambda: self.now)
        self.candidates = Candidates(infos(self.nodes, self.zones), self.stats, self.local_id)
        self.calls: list[tuple[float, str, CatgaError | None]] = []
        """When each was sent, the node that had the last word, and its error."""
        self.attempts: Counter[str] = Counter()
        self.ejections: Counter[str] = Counter()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()

    def at(self, time: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time, next(self._numbers), what))

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            self.now, _, what = heapq.heappop(self._events)
            what()
        self.now = end

    def send_often(self, rate: float, seconds: float, seed: int = 1) -> None:
        """As many calls a second as come, whatever becomes of them."""
        draws, time = random.Random(seed), self.now
        while (time := time + draws.expovariate(rate)) < self.now + seconds:
            self.at(time, self.send)
        self.run(seconds + 2 * TIMEOUT)

    def send_in_turn(self, clients: int, seconds: float) -> None:
        """So many clients, each of which waits for the end of a call before it makes the next."""
        end = self.now + seconds

        def next_call() -> None:
            if self.now < end:
                self.send(next_call)

        for _ in range(clients):
            next_call()
        self.run(seconds + 2 * TIMEOUT)

    def send(self, then: Callable[[], None] = lambda: None) -> None:
        self._attempt(Work(next(self._numbers)), self.now, frozenset(), then)

    def _attempt(self, work: Work, sent: float, tried: frozenset[str], then: Callable[[], None]) -> None:
        nodes = self.outliers.admit(self.candidates, tried, "work")
        node_id = self.strategy.select(nodes, work).node_id
        self.attempts[node_id] += 1
        trials = self.outliers.trials(node_id, "work") if self.outliers.ejected else NO_TRIAL
        stats = self.stats[node_id]
        started = stats.started()
        end, error = self.nodes[node_id](self.now)

        def ended() -> None:
            before = set(self.outliers.ejected)
            if error is None and not trials:  # as a delivery does
                stats.ended(started)
                if self.outliers.suspected:
                    self.outliers.cleared(stats, Success(1), "work")
            else:
                result: Any = Success(1) if error is None else Failure(error)
                self.outliers.ended(stats, started, result, trials=trials, of=Kind("work", lambda: self.candidates))
            self.ejections.update(key[0] for key in self.outliers.ejected if key not in before)
            left = tried | {node_id}
            if error is not None and error.execution is Execution.NO and len(left) < len(self.nodes):
                self._attempt(work, sent, left, then)
                return
            self.calls.append((sent - self.start, node_id, error))
            then()

        self.at(end, ended)

    def failed(self, after: float = 0.0, before: float = 1e9) -> float:
        """The part of the calls sent in a span of time that failed."""
        there = [error is not None for sent, _, error in self.calls if after <= sent < before]
        return sum(there) / max(len(there), 1)

    def shares(self, after: float = 0.0) -> dict[str, float]:
        """The part of the calls that each node had."""
        there = Counter(node_id for sent, node_id, _ in self.calls if sent >= after)
        return {node_id: there[node_id] / max(there.total(), 1) for node_id in self.nodes}
