"""A history as the checker sees it: records by request and by node, and what was disturbed when."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tests.histories.plan import BROKER, Plan
from tests.histories.records import (
    End,
    Fault,
    Gone,
    Invoke,
    Life,
    Mark,
    Outcome,
    Stall,
    Start,
)
from tests.histories.words import KINDS, Kind

LOAD = "load"


@dataclass
class Call:
    """All that is known of one request."""

    invoke: Invoke
    outcome: Outcome | None = None
    starts: list[Start] = field(default_factory=list)
    ends: list[End] = field(default_factory=list)

    @property
    def request(self) -> str:
        return self.invoke.request

    @property
    def kind(self) -> Kind:
        return KINDS[self.invoke.kind]

    @property
    def deadline(self) -> float:
        return self.invoke.at + self.invoke.timeout

    @property
    def ended(self) -> float:
        """When the caller knew; its deadline if it never did."""
        return self.outcome.at if self.outcome else self.deadline

    @property
    def is_success(self) -> bool:
        return self.outcome is not None and not self.outcome.code and not self.outcome.parts


class History:
    """The records of one history, sorted by time, and its plan."""

    def __init__(self, plan: Plan, records: Iterable[Any]) -> None:
        self.plan = plan
        self.records = list(records)
        self._of: defaultdict[type, list[Any]] = defaultdict(list)
        for record in self.records:
            self._of[type(record)].append(record)

    def of(self, kind: type) -> list[Any]:
        """The records of this class."""
        return self._of[kind]

    @cached_property
    def calls(self) -> dict[str, Call]:
        """By request; what probes started is left out."""
        calls = {invoke.request: Call(invoke) for invoke in self.of(Invoke)}
        for start in self.of(Start):
            if start.request in calls:
                calls[start.request].starts.append(start)
        for end in self.of(End):
            if end.request in calls:
                calls[end.request].ends.append(end)
        for outcome in self.of(Outcome):
            calls[outcome.request].outcome = outcome
        return calls

    @property
    def workers(self) -> list[str]:
        return [worker.node for worker in self.plan.workers]

    @property
    def service_of(self) -> dict[str, str]:
        return {worker.node: worker.service for worker in self.plan.workers}

    @property
    def begin(self) -> float:
        return next((mark.at for mark in self.of(Mark) if mark.what == "begin"), 0.0)

    def faults(self, target: str, since: float, until: float) -> list[Fault]:
        """The faults of this target that overlap with this time."""
        return [f for f in self.of(Fault) if f.target == target and f.at <= until and f.until >= since]

    def is_calm(self, target: str, since: float, until: float) -> bool:
        """Whether nothing was done to this target in this time."""
        return not self.faults(target, since, until)

    def calm_workers(self, since: float, until: float) -> list[str]:
        """The workers to which nothing was done in this time."""
        return [node for node in self.workers if self.is_calm(node, since, until)]

    def is_all_calm(self, since: float, until: float) -> bool:
        """Whether nothing at all was done in this time, bursts included."""
        return not any(f.at <= until and f.until >= since for f in self.of(Fault))

    def is_broker_calm(self, since: float, until: float) -> bool:
        return self.is_calm(BROKER, since, until)

    def is_load_usual(self, since: float, until: float) -> bool:
        return self.is_calm(LOAD, since, until)

    def stalled(self, node: str, since: float, until: float) -> float:
        """Seconds of this time in which the loop of this node did not turn."""
        spans = (min(s.until, until) - max(s.at, since) for s in self.of(Stall) if s.node == node)
        return sum(span for span in spans if span > 0)

    def gone(self, node: str, life: int) -> bool:
        """Whether this process was ended."""
        return any(g.node == node and g.life == life for g in self.of(Gone))

    def lives(self, node: str) -> list[Life]:
        return [life for life in self.of(Life) if life.node == node]

    def living(self, node: str, at: float) -> Life | None:
        """The life that this node had at this time, if any."""
        lives = [life for life in self.lives(node) if life.at <= at]
        if not lives or any(g.life == lives[-1].life and g.at <= at for g in self.of(Gone)):
            return None
        return lives[-1]

    def was_up(self, service: str, since: float, until: float) -> bool:
        """Whether a worker of this service was a member at some moment of this time."""
        return any(self._was_member(node, since, until) for node, s in self.service_of.items() if s == service)

    def _was_member(self, node: str, since: float, until: float) -> bool:
        joined = any(since <= life.at <= until for life in self.lives(node))
        return joined or self.living(node, since) is not None
