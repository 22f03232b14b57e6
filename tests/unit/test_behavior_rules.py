"""The table of the behaviors' rules in docs/behaviors.md, each cell of which is tried here."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from catga import Event, Mediator, Request, message
from catga.errors import CatgaTimeoutError, CircuitOpenError, InvalidMessageError, OverloadedError, settle_doubt
from catga.mediator.behaviors import (
    Caching,
    CircuitBreaker,
    ConcurrencyLimit,
    DeadLetters,
    Idempotency,
    Logging,
    MemoryStore,
    RateLimit,
    Retry,
    Timeout,
    Validation,
)
from catga.testing import ManualClock, eventually

PAGE = Path(__file__).parents[2] / "docs" / "behaviors.md"


@message(name="rules.Ask")
@dataclass(frozen=True)
class Ask(Request[int]):
    pass


@message(name="rules.Told")
@dataclass(frozen=True)
class Told(Event):
    pass


def never_ran() -> Exception:
    return OverloadedError("it is full")


def may_have_run() -> Exception:
    return settle_doubt(CatgaTimeoutError("no answer"), idempotent=False)


def answered() -> Exception:
    return ConnectionError("no route")


def group() -> Exception:
    return ExceptionGroup("several", [ConnectionError("no route")])


CODES: dict[Any, str] = {
    never_ran: "overloaded",
    may_have_run: "timeout",
    answered: "ConnectionError",
    asyncio.CancelledError: "cancelled",
    group: "ExceptionGroup",
}
"""What the log calls each end."""
ENDS = tuple(CODES)
"""How what is inside a behavior ends, in the order of the table's columns."""


class Trial:
    """A message whose first run ends in that way, and all others well, behind one behavior. Its handlers note that they
    began."""

    def __init__(self, behavior: Any, end: Callable[[], BaseException], *, is_event: bool) -> None:
        self.app, self.began = Mediator(), list[str]()
        self._end = end
        self.app.behavior(behavior)
        self._message: Any = Told() if is_event else Ask()
        for name in ("first", "second") if is_event else ("first",):
            self.app.handles(Told if is_event else Ask)(self._handler(name))

    def _handler(self, name: str) -> Any:
        async def handle(_: object) -> Any:
            self.began.append(name)
            if name == "first" and self.began.count("first") == 1:
                if self._end is asyncio.CancelledError:
                    await asyncio.Event().wait()
                raise self._end()
            return 1

        handle.__qualname__ = name
        return handle

    async def send(self) -> Any:
        """Send it once, and cancel the sender if that is how it ends. Returns the result, if there is one."""
        verb = self.app.publish if isinstance(self._message, Event) else self.app.send
        call = asyncio.ensure_future(verb(self._message))
        if self._end is asyncio.CancelledError and "first" not in self.began:
            await eventually(lambda: self.began)
            call.cancel()
        (result,) = await asyncio.gather(call, return_exceptions=True)
        return result


# -- what each does: a function that tries it, and says it as the table does ------------------------------------


async def logs(end: Any, caplog: pytest.LogCaptureFixture) -> str:
    with caplog.at_level(logging.INFO, "catga.handlers"):
        await Trial(Logging(), end, is_event=False).send()
    (line,) = [record for record in caplog.records if hasattr(record, "catga_seconds")]
    assert line.catga_error == CODES[end]  # type: ignore[attr-defined]
    return "a line"


async def keeps(end: Any, _: Any) -> str:
    letters = DeadLetters()
    await Trial(letters, end, is_event=True).send()
    codes = [letter.code for letter in await letters.list()]
    assert codes == {asyncio.CancelledError: ["cancelled", "not_reached"], never_ran: ["overloaded"]}.get(
        end, codes[:1]
    )
    return "a letter"


async def frees_a_place(end: Any, _: Any) -> str:
    trial = Trial(ConcurrencyLimit(1, waiting=0), end, is_event=False)
    await trial.send()
    return "freed" if (await trial.send()).is_success else "lost"


async def spends_a_token(end: Any, _: Any) -> str:
    trial = Trial(RateLimit(1, burst=1, clock=ManualClock()), end, is_event=False)
    await trial.send()
    return "spent" if not (await trial.send()).is_success else "comes back"


async def counts(end: Any, _: Any) -> str:
    trial = Trial(CircuitBreaker(1), end, is_event=False)
    await trial.send()
    return "counts" if isinstance(getattr(await trial.send(), "error", None), CircuitOpenError) else "ignored"


async def tries_again(end: Any, _: Any) -> str:
    whatever, named, plain = (
        Retry(2, base=0.0, on=Exception),
        Retry(2, base=0.0, on=ConnectionError),
        Retry(2, base=0.0),
    )
    tries = []
    for behavior in (whatever, named, plain):
        trial = Trial(behavior, end, is_event=False)
        await trial.send()
        tries.append(len(trial.began))
    return {
        (2, 2, 2): "again",
        (2, 2, 1): "if in `on`" if end is answered else "if all in `on`",
        (1, 1, 1): "passes" if end is asyncio.CancelledError else "never",
    }[tuple(tries)]


async def frees_its_key(end: Any, _: Any) -> str:
    trial = Trial(Idempotency(key=lambda _: 1, wait=0.0), end, is_event=False)
    await trial.send()
    return "freed" if (await trial.send()).is_success and len(trial.began) == 2 else "taken"


async def is_kept(end: Any, _: Any) -> str:
    trial = Trial(Caching(ttl=60.0), end, is_event=False)
    first = asyncio.ensure_future(trial.send())
    await eventually(lambda: trial.began)
    second = await trial.send() if end is asyncio.CancelledError else None
    await first
    await trial.send()
    ran = len(trial.began)
    return ("another runs" if second is not None and second.is_success else "not kept") if ran == 2 else "kept"


async def passes(behavior: Any, end: Any) -> str:
    trial = Trial(behavior, end, is_event=False)
    result = await trial.send()
    if end is asyncio.CancelledError:
        return "passes" if isinstance(result, asyncio.CancelledError) else "swallowed"
    plain = await Trial(lambda message, call_next: call_next(message), end, is_event=False).send()
    return "passes" if (result.error.code, str(result.error)) == (plain.error.code, str(plain.error)) else "changed"


TRIED: dict[str, Any] = {
    "Logging": logs,
    "DeadLetters": keeps,
    "RateLimit": spends_a_token,
    "ConcurrencyLimit": frees_a_place,
    "Validation": lambda end, _: passes(Validation(lambda message: None), end),
    "Idempotency": frees_its_key,
    "Caching": is_kept,
    "Retry": tries_again,
    "CircuitBreaker": counts,
    "Timeout": lambda end, _: passes(Timeout(60.0), end),
}


# -- how often each sees an event with two handlers ------------------------------------------------------------------


async def once_for(behavior: Any, seen: Callable[[], int]) -> str:
    trial = Trial(behavior, answered, is_event=True)
    await trial.send()
    return {1: "an event", 2: "a handler", 0: "requests only"}[seen()]


async def events_of_logging() -> str:
    lines: list[str] = []
    logger = logging.Logger("rules")
    logger.addFilter(lambda record: bool(lines.append(record.msg)))
    return await once_for(Logging(logger), lambda: len(lines))


async def events_of_letters() -> str:
    letters = DeadLetters()
    await Trial(letters, answered, is_event=True).send()
    return "a handler" if [letter.handler for letter in await letters.list()] == [f"{__name__}.first"] else "an event"


async def events_of_a_rate() -> str:
    trial = Trial(limit := RateLimit(1, burst=10, clock=ManualClock()), answered, is_event=True)
    await trial.send()
    ((tokens, _),) = limit._buckets.values()
    return {9.0: "an event", 8.0: "a handler"}[tokens]


async def events_of_a_limit() -> str:
    held: list[bool] = []
    trial = Trial(limit := ConcurrencyLimit(1), answered, is_event=True)

    class Watch:
        async def __call__(self, message: Any, call_next: Any) -> Any:
            held.append(limit._here().free == 0)
            return await call_next(message)

    trial.app.behavior(Watch())
    await trial.send()
    return (
        "an event" if held == [True, True] and trial.app.registry.event_calls(Told).limits == [limit] else "a handler"
    )  # type: ignore[union-attr]


async def events_of_validation() -> str:
    seen: list[object] = []
    return await once_for(Validation(seen.append), lambda: len(seen))


async def events_of_idempotency() -> str:
    trial = Trial(Idempotency(key=lambda _: 1), answered, is_event=True)
    for _ in range(3):
        await trial.send()
    return "a handler" if sorted(trial.began) == ["first", "first", "second"] else "an event"


async def events_of_caching() -> str:
    trial = Trial(Caching(ttl=60.0), answered, is_event=True)
    for _ in range(2):
        await trial.send()
    return "requests only" if len(trial.began) == 4 else "an event"


async def events_of_retry() -> str:
    trial = Trial(Retry(2, base=0.0, on=ConnectionError), answered, is_event=True)
    await trial.send()
    return "a handler" if trial.began == ["first", "first", "second"] else "an event"


async def events_of_a_circuit() -> str:
    trial = Trial(CircuitBreaker(1), answered, is_event=True)
    for _ in range(2):
        await trial.send()
    return "a handler" if trial.began == ["first", "second", "second"] else "an event"


async def events_of_a_timeout() -> str:
    class Noting(Timeout):
        async def __call__(self, message: Any, call_next: Any) -> Any:
            seen.append(message)
            return await super().__call__(message, call_next)

    seen: list[object] = []
    return await once_for(Noting(60.0), lambda: len(seen))


EVENTS: dict[str, Any] = {
    "Logging": events_of_logging,
    "DeadLetters": events_of_letters,
    "RateLimit": events_of_a_rate,
    "ConcurrencyLimit": events_of_a_limit,
    "Validation": events_of_validation,
    "Idempotency": events_of_idempotency,
    "Caching": events_of_caching,
    "Retry": events_of_retry,
    "CircuitBreaker": events_of_a_circuit,
    "Timeout": events_of_a_timeout,
}


def rows() -> dict[str, list[str]]:
    """The cells of the table, by behavior."""
    section = PAGE.read_text().split("## The rules", 1)[1].split("\n## ", 1)[0]
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:3] == "| `"
    ]
    return {row[0].strip("`"): row[1:] for row in cells}


@pytest.mark.parametrize("name", TRIED)
async def test_the_table_says_what_a_behavior_does(name: str, caplog: pytest.LogCaptureFixture) -> None:
    said = rows()[name]
    seen = [await EVENTS[name]()]
    for end in ENDS:
        caplog.clear()
        seen.append(await TRIED[name](end, caplog))
    assert [said[0], *said[2:]] == seen


def test_the_table_has_every_behavior_in_the_order_in_which_they_should_stand() -> None:
    assert list(rows()) == list(TRIED)


# -- where each must stand -------------------------------------------------------------------------------------------


class Counting(MemoryStore):
    """Counts the claims."""

    claimed = 0

    async def add(self, key: str, value: bytes, ttl: float) -> bool:
        self.claimed += 1
        return await super().add(key, value, ttl)


async def test_letters_outside_retries_are_of_what_failed_for_good() -> None:
    async def kept(*behaviors: Any) -> list[str]:
        trial = Trial(behaviors[0], answered, is_event=True)
        trial.app.behavior(behaviors[1])
        result = await trial.send()
        assert result.is_success
        return [letter.code for letter in await letters.list()]

    letters = DeadLetters()
    assert await kept(letters, Retry(2, base=0.0, on=ConnectionError)) == []
    letters = DeadLetters()
    assert await kept(Retry(2, base=0.0, on=ConnectionError), letters) == ["handler_error"]


async def test_a_timeout_inside_a_circuit_breaker_opens_it() -> None:
    async def second(*behaviors: Any) -> str:
        app = Mediator()
        for behavior in behaviors:
            app.behavior(behavior)

        @app.handler
        async def ask(request: Ask) -> int:
            await asyncio.Event().wait()
            return 1

        await app.send(Ask())
        return (await app.send(Ask())).error.code  # type: ignore[union-attr]

    assert await second(CircuitBreaker(1), Timeout(0.01)) == "circuit_open"
    assert await second(Timeout(0.01), CircuitBreaker(1)) == "timeout"


async def test_a_key_outside_retries_is_claimed_once_for_all_of_them() -> None:
    async def claims(*behaviors: Any) -> int:
        store.claimed = 0
        trial = Trial(behaviors[0], answered, is_event=False)
        trial.app.behavior(behaviors[1])
        assert (await trial.send()).is_success
        return store.claimed

    retry, store = Retry(2, base=0.0, on=ConnectionError), Counting()
    assert await claims(Idempotency(store, key=lambda _: 1), retry) == 1
    assert await claims(retry, Idempotency(store, key=lambda _: 2)) == 2


async def test_a_circuit_breaker_inside_retries_counts_each_try() -> None:
    async def runs(*behaviors: Any) -> int:
        trial = Trial(behaviors[0], answered, is_event=False)
        trial.app.behavior(behaviors[1])
        await trial.send()
        return len(trial.began)

    retry = Retry(2, base=0.0, on=ConnectionError)
    assert await runs(retry, CircuitBreaker(1)) == 1  # the second try is refused
    assert await runs(CircuitBreaker(1), retry) == 2


async def test_what_is_invalid_takes_no_key() -> None:
    def refuse(message: object) -> None:
        raise ValueError("no")

    app, store = Mediator(), Counting()
    app.behavior(Validation(refuse))
    app.behavior(Idempotency(store, key=lambda _: 1))
    app.handles(Ask)(lambda request: 1)
    assert isinstance((await app.send(Ask())).error, InvalidMessageError)  # type: ignore[union-attr]
    assert store.claimed == 0
