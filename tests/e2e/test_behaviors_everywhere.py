"""Each behavior, for requests with and without a response and for events, in one process and across two nodes."""

import asyncio
import logging
import re
from typing import Any

import pytest
from behavior_bed import Happened, Join, Order, Work, join

from catga import Failure, Mediator
from catga.abc import Behavior
from catga.errors import (
    CatgaTimeoutError,
    CircuitOpenError,
    ClusterError,
    HandlerError,
    InProgressError,
    InvalidMessageError,
    MaybeExecutedError,
    OverloadedError,
    RateLimitedError,
)
from catga.mediator import MessageContext, MessageInfo, current_message
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
from catga.mediator.behaviors.logs import HANDLED
from catga.testing import eventually

__all__ = ["join"]


class Service:
    """Handlers of all three kinds, which count, and fail or wait when told."""

    def __init__(self, *behaviors: Behavior) -> None:
        self.app = Mediator()
        self.runs: list[int] = []
        self.errors: list[Exception] = []
        self.gate = asyncio.Event()
        self.gate.set()
        for behavior in behaviors:
            self.app.behavior(behavior)
        self.app.handles(Work)(self.work)
        self.app.handles(Order)(self.order)
        self.app.handles(Happened)(self.happened)

    async def work(self, request: Work) -> int:
        await self._run(request.number)
        return 2 * request.number

    async def order(self, request: Order) -> None:
        await self._run(request.number)

    async def happened(self, event: Happened) -> None:
        await self._run(event.number)

    async def _run(self, number: int) -> None:
        self.runs.append(number)
        if self.errors:
            raise self.errors.pop(0)
        await self.gate.wait()


def error_of(result: Any) -> Any:
    assert isinstance(result, Failure)
    return result.error


async def test_logging_names_message_and_outcome(join: Join, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "catga.handlers")
    service = Service(Logging())
    caller = await join(service.app)
    assert (await caller.send(Work(1))).unwrap() == 2
    service.errors = [KeyError("secret")]
    await caller.publish(Happened(1))
    lines = [
        (r.levelname, re.sub(r"\d\.\d+", "*", r.message), vars(r)["catga_message"])
        for r in caplog.records
        if "catga_seconds" in vars(r)
    ]
    assert lines == [
        ("INFO", "behavior_bed.Work handled in * s", "behavior_bed.Work"),
        ("WARNING", "behavior_bed.Happened failed after * s: KeyError", "behavior_bed.Happened"),
    ]
    told = [r.getMessage() for r in caplog.records]  # the traceback of a bug, which is in the log as well, has its text
    assert not any("secret" in text for text in told)


async def test_timeout_cancels_the_handler(join: Join) -> None:
    service = Service(Timeout(0.05))
    service.gate.clear()
    caller = await join(service.app)
    for result in (await caller.send(Work(1)), await caller.send(Order(1)), await caller.publish(Happened(1))):
        assert isinstance(error_of(result), CatgaTimeoutError)
    service.gate.set()
    assert (await caller.send(Work(2))).unwrap() == 4


async def test_retry_tries_again_after_a_retryable_failure_only(join: Join) -> None:
    service = Service(Retry(3, base=0.001, on=ConnectionError))
    caller = await join(service.app)
    service.errors = [ClusterError("a"), ConnectionError("b")]
    assert (await caller.send(Work(1))).unwrap() == 2
    assert service.runs == [1, 1, 1]
    service.errors = [ClusterError("a")]
    assert (await caller.send(Order(2))).is_success
    service.errors = [ClusterError("a")]
    assert (await caller.publish(Happened(3))).is_success
    assert service.runs == [1, 1, 1, 2, 2, 3, 3]
    service.errors = [KeyError("final")]
    assert isinstance(error_of(await caller.send(Work(4))), HandlerError)
    assert service.runs[7:] == [4]
    service.errors = [ClusterError(str(n)) for n in range(3)]
    assert str(error_of(await caller.send(Work(5)))) == "2"


async def test_validation_refuses_before_the_handler_runs(join: Join) -> None:
    def positive(message: Any) -> None:
        if message.number <= 0:
            raise ValueError("number must be positive")

    service = Service(Validation(positive))
    caller = await join(service.app)
    for result in (await caller.send(Work(0)), await caller.send(Order(0)), await caller.publish(Happened(0))):
        assert isinstance(error_of(result), InvalidMessageError)
        assert "must be positive" in str(error_of(result))
    assert service.runs == []
    assert (await caller.send(Work(1))).unwrap() == 2


async def test_two_concurrent_duplicates_run_once(join: Join) -> None:
    service = Service(Idempotency(key=lambda m: m.number))
    service.gate.clear()
    caller = await join(service.app)
    sends = [asyncio.ensure_future(caller.send(Work(7))) for _ in range(5)]
    await eventually(lambda: service.runs)
    service.gate.set()
    assert [(await send).unwrap() for send in sends] == [14] * 5
    assert service.runs == [7]
    assert (await caller.send(Order(7))).is_success
    assert (await caller.send(Order(7))).is_success
    assert (await caller.publish(Happened(7))).is_success
    assert (await caller.publish(Happened(7))).is_success
    assert service.runs == [7, 7, 7]


async def test_every_handler_of_an_event_runs_once_under_idempotency(join: Join) -> None:
    service = Service(Idempotency(key=lambda m: m.number))
    second: list[int] = []

    @service.app.handler
    def also(event: Happened) -> None:
        second.append(event.number)

    caller = await join(service.app)
    for _ in range(2):
        assert (await caller.publish(Happened(1))).is_success
    assert (service.runs, second) == ([1], [1])


async def test_a_failed_run_frees_its_key(join: Join) -> None:
    service = Service(Idempotency(key=lambda m: m.number))
    caller = await join(service.app)
    service.errors = [KeyError("once")]
    assert not (await caller.send(Work(1))).is_success
    assert (await caller.send(Work(1))).unwrap() == 2


async def test_what_may_have_run_keeps_its_key_until_its_lease_ends(join: Join) -> None:
    """Else a duplicate, or a client that tries again, would do it twice."""
    service = Service(Idempotency(key=lambda m: m.number, wait=0.0))
    caller = await join(service.app)
    service.errors = [MaybeExecutedError("the bank may have booked it")]
    assert isinstance((await caller.send(Work(1))).error, MaybeExecutedError)  # type: ignore[union-attr]
    for _ in range(2):
        assert isinstance((await caller.send(Work(1))).error, InProgressError)  # type: ignore[union-attr]
    assert service.runs == [1]


async def test_caching_answers_equal_requests_and_lets_events_pass(join: Join) -> None:
    service = Service(Caching(ttl=60.0))
    caller = await join(service.app)
    assert [(await caller.send(Work(n))).unwrap() for n in (1, 1, 2)] == [2, 2, 4]
    assert service.runs == [1, 2]
    assert [(await caller.send(Order(3))).unwrap() for _ in range(2)] == [None, None]
    assert service.runs == [1, 2, 3]
    for _ in range(2):
        await caller.publish(Happened(9))
    assert service.runs == [1, 2, 3, 9, 9]


async def test_concurrency_limit_queues_then_refuses(join: Join) -> None:
    service = Service(ConcurrencyLimit(1, waiting=1))
    service.gate.clear()
    caller = await join(service.app)
    first = asyncio.ensure_future(caller.send(Work(1)))
    await eventually(lambda: service.runs == [1])
    others = [asyncio.ensure_future(caller.send(Order(n))) for n in (2, 3)]
    done, _ = await asyncio.wait(others, return_when=asyncio.FIRST_COMPLETED)
    assert isinstance(error_of(done.pop().result()), OverloadedError)
    assert service.runs == [1]
    service.gate.set()
    assert (await first).unwrap() == 2
    assert sorted([(await o).is_success for o in others]) == [False, True]
    assert (await caller.publish(Happened(4))).is_success


async def test_rate_limit_refuses_what_is_over(join: Join) -> None:
    now = 0.0
    service = Service(RateLimit(1.0, burst=2, clock=lambda: now))
    caller = await join(service.app)
    assert (await caller.send(Work(1))).is_success
    assert (await caller.publish(Happened(1))).is_success
    refused = error_of(await caller.send(Order(1)))
    assert isinstance(refused, RateLimitedError)
    assert refused.details["retry_after"] == pytest.approx(1.0)
    now = 1.0
    assert (await caller.send(Order(1))).is_success


async def test_circuit_breaker_opens_probes_and_closes(join: Join) -> None:
    now = 0.0
    service = Service(CircuitBreaker(2, reset=10.0, clock=lambda: now))
    caller = await join(service.app)
    service.errors = [KeyError("1"), KeyError("2")]
    for _ in range(2):
        assert isinstance(error_of(await caller.send(Work(1))), HandlerError)
    assert isinstance(error_of(await caller.send(Work(1))), CircuitOpenError)
    assert (await caller.send(Order(1))).is_success  # another type, another circuit
    now = 10.0
    service.errors = [KeyError("probe")]
    assert isinstance(error_of(await caller.send(Work(1))), HandlerError)
    assert isinstance(error_of(await caller.send(Work(1))), CircuitOpenError)
    now = 20.0
    assert (await caller.send(Work(1))).is_success
    assert (await caller.send(Work(1))).is_success


async def test_dead_letters_keep_what_failed_for_good_and_replay_it(join: Join) -> None:
    letters = DeadLetters()
    service = Service(letters, Retry(2, base=0.001))
    others: list[int] = []

    @service.app.handler
    def also(event: Happened) -> None:
        others.append(event.number)

    caller = await join(service.app)
    service.errors = [ClusterError("first"), ClusterError("second")]
    assert isinstance(error_of(await caller.publish(Happened(5))), ClusterError)
    (letter,) = await letters.list()
    assert (letter.error, letter.code, letter.attempts) == ("second", "cluster", 1)
    assert letter.handler.endswith("Service.happened")

    service.errors = [KeyError("still")]
    assert not (await letters.replay(service.app, letter.id)).is_success
    (letter,) = await letters.list()
    assert letter.attempts == 2

    assert (await letters.replay(service.app, letter.id)).is_success
    assert await letters.list() == []
    assert service.runs == [5, 5, 5, 5]
    assert others == [5]


async def test_a_handler_that_was_not_reached_leaves_a_dead_letter_of_its_own(join: Join) -> None:
    letters = DeadLetters()
    service = Service(letters)
    others: list[int] = []

    @service.app.handler
    def also(event: Happened) -> None:
        others.append(event.number)

    service.gate.clear()
    caller = await join(service.app)
    publishing = asyncio.create_task(caller.publish(Happened(5)))
    await eventually(lambda: service.runs == [5])
    publishing.cancel()
    await asyncio.wait([publishing])

    async def are_kept() -> bool:
        return [letter.code for letter in await letters.list()] == ["cancelled", "not_reached"]

    await eventually(are_kept)
    service.gate.set()
    for letter in await letters.list():
        assert (await letters.replay(service.app, letter.id)).is_success
    assert (service.runs, others, await letters.list()) == ([5, 5], [5], [])


async def test_message_ids_travel(join: Join) -> None:
    app, caller_app = Mediator(), Mediator()
    seen: list[MessageInfo] = []
    app.use(MessageContext())
    caller_app.use(MessageContext())

    @app.handler
    async def work(request: Work) -> int:
        seen.append(current_message())
        await server.send(Order(request.number))
        return 0

    @app.handler
    async def order(request: Order) -> None:
        seen.append(current_message())

    server = app
    caller = await join(app, caller_app)
    await caller.send(Work(1))
    outer, inner = seen
    assert inner.causation_id == outer.message_id
    assert inner.correlation_id == outer.correlation_id == outer.message_id


async def test_all_behaviors_stacked(join: Join, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "catga.handlers")
    letters = DeadLetters()
    service = Service(
        letters,
        Logging(),
        Validation(),
        RateLimit(1000.0),
        CircuitBreaker(50),
        Caching(ttl=60.0),
        Idempotency(key=lambda m: m.number),
        ConcurrencyLimit(2),
        Retry(3, base=0.001),
        Timeout(5.0),
    )
    caller_app = Mediator()
    service.app.use(MessageContext())
    caller_app.use(MessageContext())
    caller = await join(service.app, caller_app)
    service.errors = [ClusterError("passing")]
    results = await caller.send_batch([Work(n % 4) for n in range(20)])
    assert [r.unwrap() for r in results] == [2 * (n % 4) for n in range(20)]
    assert sorted(service.runs) == sorted([0, 1, 2, 3, service.runs[0]])
    assert (await caller.send(Order(8))).unwrap() is None
    service.errors = [KeyError("for good")]
    assert not (await caller.publish(Happened(9))).is_success
    (letter,) = await letters.list()
    assert letter.message_id
    assert (await letters.replay(service.app, letter.id)).is_success
    assert await letters.list() == []
    assert all("catga_correlation_id" in vars(r) for r in caplog.records if r.msg == HANDLED)
