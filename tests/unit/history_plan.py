"""What a history of behaviors consists of: messages, calls, and runs of handlers, each planned by a seed."""

import asyncio
import random
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from catga import Event, Failure, Request, message
from catga.codec import Codec
from catga.errors import CatgaTimeoutError, MaybeExecutedError, StoreError, holds_doubt
from catga.mediator.behaviors import DeadLetters


@dataclass(frozen=True)
class Ask(Request[int]):
    key: int = 0
    content: int = 0
    number: int = 0


@message(idempotent=True)
@dataclass(frozen=True)
class Look(Request[int]):
    key: int = 0
    content: int = 0
    number: int = 0


@dataclass(frozen=True)
class Plain(Request[int]):
    """Its handler is a plain function."""

    key: int = 0
    content: int = 0
    number: int = 0


@dataclass(frozen=True)
class Happened(Event):
    key: int = 0
    content: int = 0
    number: int = 0


@message(concurrent=True)
@dataclass(frozen=True)
class AtOnce(Event):
    key: int = 0
    content: int = 0
    number: int = 0


@message(timeout=0.04)
@dataclass(frozen=True)
class Brief(Event):
    key: int = 0
    content: int = 0
    number: int = 0


REQUESTS: tuple[type, ...] = (Ask, Ask, Look, Plain)
EVENTS: tuple[type, ...] = (Happened, AtOnce, Brief)
HANDLERS = ("first", "plain", "last")
"""Of each event."""

# -- what a seed says -------------------------------------------------------------------------------------

PASSING, BUG, DOUBT, LOST, OWN_CANCEL, GROUP = "passing", "bug", "doubt", "lost", "own cancel", "group"
VALUE, ERROR, CANCELLED = "value", "error", "cancelled"
DAY = 86_400.0


@dataclass(frozen=True)
class How:
    """How one run goes."""

    wait: float
    turns: int
    ends: str
    on_cancel: str  # "raise", "value", "error", or "slow": raise after a while


def _how(rng: random.Random) -> How:
    return How(
        wait=rng.choice((0.0, 0.0, 0.01, 0.02, 0.05, 0.3, 0.8, 1.5, 1.5)),
        turns=rng.randrange(4),
        ends=rng.choices((VALUE, PASSING, BUG, DOUBT, LOST, OWN_CANCEL, GROUP), (10, 5, 3, 1, 1, 1, 1))[0],
        on_cancel=rng.choices(("raise", "value", "error", "slow"), (12, 1, 1, 3))[0],
    )


def raised(ends: str) -> BaseException:
    """What a run that goes so raises."""
    if ends == OWN_CANCEL:
        return asyncio.CancelledError()
    if ends in (DOUBT, GROUP):
        late = CatgaTimeoutError("what it sent may have run")
        late.is_retryable = False
        return late if ends == DOUBT else ExceptionGroup("two", [ValueError("bug"), late])
    known = {PASSING: StoreError("later"), LOST: MaybeExecutedError("lost")}
    return known.get(ends) or ValueError("bug")


@dataclass(eq=False)
class Call:
    """One message, or one replay of a letter: what is planned, and what became of it."""

    seed: int
    number: int
    classes: Sequence[type]
    unique: bool = False  # no two have the same content
    runs: list["Run"] = field(default_factory=list["Run"])
    result: Any = None
    began: float | None = None  # None: it was cancelled before its first step
    ended: float | None = None
    is_over: bool = False
    was_cancelled: bool = False  # somebody cancelled it before it ended
    letter: Any = None

    def __post_init__(self) -> None:
        rng = random.Random(self.seed)
        self.cls = rng.choice(self.classes)
        self.key = rng.choice((0, 0, 1))
        content = int(rng.random() < 0.25)
        self.message: Any = None
        if self.cls is not DeadLetters:
            self.message = self.cls(self.key, content, self.number if self.unique else 0)
        self.at = rng.choice((0.0, 0.0, 0.0, 0.005, 0.01, 0.02, 0.04, 0.1, 0.3, 2.0))
        if self.cls is DeadLetters:
            self.at += 0.4  # there are letters by then
        self.start_turns = rng.randrange(6)
        self.timeout = rng.choice((None, None, None, None, 0.015, 0.05, 0.5))
        self.cancels = [
            (rng.choice((0.0, 0.0, 0.005, 0.01, 0.05, 0.5)), rng.randrange(12))
            for _ in range(rng.choice((0, 0, 0, 1, 1, 2)))
        ]
        self.pick = rng.randrange(100)
        self.cancel_at_end = rng.choice(
            (0, 0, 0, 0, 1, 2, rng.randrange(1, 8))
        )  # of so many other runs from its begin on; or 0
        self._rng = rng
        self._hows: dict[tuple[str, int], How] = {}

    @property
    def is_event(self) -> bool:
        return self.cls in EVENTS

    @property
    def cancelled(self) -> bool:
        """Whether its publisher got a CancelledError."""
        return self.result is CANCELLED

    @property
    def swallowed(self) -> bool:
        """Whether one of its handlers ended in a way of its own when it was cancelled."""
        return any(run.was_cancelled and run.ends != CANCELLED for run in self.runs)

    def runs_of(self, handler: str) -> list["Run"]:
        return [run for run in self.runs if run.handler == handler]

    def how(self, handler: str, attempt: int) -> How:
        return self._hows.setdefault((handler, attempt), _how(random.Random(f"{self.seed} {handler} {attempt}")))


@dataclass(eq=False)
class Run:
    """One run of a handler."""

    call: Call
    handler: str
    message: Any
    number: int
    how: How
    app: int
    began: float
    ended: float = 0.0
    ends: str = ""  # empty: it runs
    error: BaseException | None = None
    was_cancelled: bool = False

    @property
    def key(self) -> tuple[type, int, str]:
        return (type(self.message), self.message.key, self.handler)

    @property
    def is_in_doubt(self) -> bool:
        """What it sent may have run, and its message must not run twice."""
        is_doubted = self.ends == ERROR and self.error is not None and holds_doubt(self.error)
        return is_doubted and not Codec(type(self.message)).idempotent


calling: ContextVar[Call] = ContextVar("calling")


def code_of(call: Call) -> str:
    """The code of its failure; empty if it has none."""
    return call.result.error.code if isinstance(call.result, Failure) else ""
