"""The checker finds each kind of broken promise in a history made by hand, and nothing in one that is right."""

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.histories.checker import Violation, check
from tests.histories.history import History
from tests.histories.plan import BROKER, CallerPlan, Plan, WorkerPlan, plan
from tests.histories.records import (
    Change,
    End,
    Failed,
    Fault,
    Gone,
    Invoke,
    Left,
    Life,
    Log,
    Mark,
    Outcome,
    Part,
    Probe,
    Record,
    Seen,
    Stall,
    Start,
    now,
    read,
)
from tests.histories.story import report, summary
from tests.histories.words import proof

WORKERS = {"w0": "mail", "w1": "bill", "w2": "mail"}
T = 100.0
"""When the call of most of these histories is made: long after the members joined."""


def history_of(*records: Record) -> History:
    """A history of three workers and a caller, who all live and see each other at the end; and of these records."""
    workers = tuple(WorkerPlan(node, service, 4, 4, proxied=False) for node, service in WORKERS.items())
    caller = CallerPlan("c0", 50.0, observe_only=True, proxied=False, cancelled=0.0)
    lives = [life(node, i + 1) for i, node in enumerate(WORKERS)]
    seen = [] if any(isinstance(r, Seen) for r in records) else [Seen(at=200.0, caller="c0", nodes=view())]
    marks = [Mark(at=0.0, what="begin"), Mark(at=201.0, what="end")]
    everything: list[Any] = [*lives, *marks, *seen, *records]
    return History(Plan(0, 40.0, workers, (caller,), ()), sorted(everything, key=lambda record: record.at))


def life(node: str, number: int, at: float = 0.0) -> Life:
    return Life(at=at, node=node, life=number, incarnation=number, service=WORKERS[node])


def view(**changed: tuple[int, str]) -> dict[str, tuple[int, str]]:
    return {node: (i + 1, "alive") for i, node in enumerate(WORKERS)} | changed


def invoke(kind: str = "add", timeout: float = 5.0, at: float = T) -> Invoke:
    return Invoke(at=at, request="r", kind=kind, timeout=timeout, caller="c0", life=50)


def start(at: float = T + 0.1, node: str = "w0", request: str = "r") -> Start:
    number = list(WORKERS).index(node) + 1
    return Start(at=at, request=request, node=node, life=number, service=WORKERS[node])


def answer(at: float = T + 0.2, node: str = "w0", value: str | None = None) -> Outcome:
    number = list(WORKERS).index(node) + 1
    return Outcome(at=at, request="r", value=proof(node, number, "r") if value is None else value, nodes=node)


def failure(code: str, execution: str, at: float = T + 0.2) -> Outcome:
    return Outcome(at=at, request="r", code=code, execution=execution)


def fault(target: str, at: float = T - 1, until: float = T + 1, what: str = "kill") -> Fault:
    return Fault(at=at, until=until, target=target, what=what)


def left(node: str = "w0", incarnation: int = 1, at: float = T, reason: str = "crashed") -> Change:
    return Change(at=at, caller="c0", what="left", node=node, incarnation=incarnation, reason=reason)


def rules(*records: Record) -> list[str]:
    return [violation.rule for violation in check(history_of(*records))]


RIGHT: dict[str, tuple[Record, ...]] = {
    "a call that succeeds": (invoke(), start(), End(at=T + 0.15, request="r", node="w0"), answer()),
    "an idempotent request that runs twice": (invoke("read"), start(), start(node="w1"), answer()),
    "an event that runs once in each service": (
        invoke("event"),
        start(),
        start(node="w1"),
        Outcome(at=T + 1, request="r"),
    ),
    "a request to all that runs once on each node": (
        invoke("all"),
        *(start(node=node) for node in WORKERS),
        Outcome(at=T + 1, request="r", parts={node: Part(value=proof(node, n, "r")) for n, node in ((1, "w0"),)}),
    ),
    "a service that was gone before the event": (
        Gone(at=T - 20, node="w1", life=2),
        invoke("event"),
        start(),
        Outcome(at=T + 1, request="r"),
        Seen(at=200.0, caller="c0", nodes={"w0": (1, "alive"), "w2": (3, "alive")}),
    ),
    "a full cluster that refuses": (invoke("read"), failure("overloaded", "no")),
    "a failure that leaves it open": (invoke(), start(), fault("w0"), failure("maybe_executed", "maybe")),
    "an idempotent failure with one worker undisturbed": (
        fault("w0"),
        fault("w1"),
        invoke("read"),
        failure("maybe_executed", "maybe"),
    ),
    "an idempotent failure just after a fault of the broker": (
        fault(BROKER, at=T - 8, until=T - 5),
        invoke("read"),
        failure("no_node_available", "no"),
    ),
    "a time-out beside a burst": (
        fault("load", what="burst"),
        invoke("read", timeout=2.0),
        failure("timeout", "maybe", T + 2),
    ),
    "a time-out on a machine that is too busy": (
        Stall(at=T - 1, until=T + 1, node="w1"),
        invoke("read"),
        failure("timeout", "maybe", T + 5),
    ),
    "a call of a caller that was killed": (Gone(at=T + 1, node="c0", life=50), invoke()),
    "a late outcome of a caller that stood still": (
        invoke(timeout=0.5),
        start(),
        Stall(at=T + 0.1, until=T + 3.0, node="c0"),
        answer(at=T + 3.0),
    ),
    "the first start after a thaw": (
        fault("w0", T + 0.1, T + 9, what="freeze"),
        invoke(timeout=0.5),
        failure("timeout", "maybe", T + 0.5),
        start(at=T + 9.001),
    ),
    "the death of a worker that was killed": (fault("w0"), left()),
    "the news of a former life": (
        Gone(at=T - 30, node="w0", life=1),
        life("w0", 9, at=T - 20),
        left(),
        Seen(at=200.0, caller="c0", nodes=view(w0=(9, "alive"))),
    ),
    "the end, at which all leave": (left(at=202.0, reason="drained"),),
}

WRONG: dict[str, tuple[str, tuple[Record, ...]]] = {
    "a request that is not idempotent on two nodes": ("ran twice", (invoke(), start(), start(node="w1"), answer())),
    "an event on two nodes of a service": (
        "ran twice",
        (invoke("event"), start(), start(node="w1"), start(node="w2"), Outcome(at=T + 1, request="r")),
    ),
    "a request to all twice on a node": (
        "ran twice",
        (invoke("all"), start(), start(T + 0.2), failure("closed", "answered"), fault("w0")),
    ),
    "a NO that ran": ("NO that ran", (fault("w0"), invoke(), start(), failure("closed", "no"))),
    "a NO that ran later": ("NO that ran", (fault("w0"), invoke(), failure("closed", "no"), start(at=T + 1))),
    "a NO of one node that ran on it": (
        "NO that ran",
        (
            fault("w0"),
            invoke("all"),
            start(),
            Outcome(at=T + 1, request="r", parts={"w0": Part(code="closed", execution="no")}),
        ),
    ),
    "an answer without a start": ("wrong answer", (invoke(), answer())),
    "an answer from a former life": ("wrong answer", (invoke(), start(), answer(value=proof("w0", 7, "r")))),
    "an answer to another request": ("wrong answer", (invoke(), start(), answer(value=proof("w0", 1, "other")))),
    "an answer that another node is said to give": (
        "wrong answer",
        (invoke(), start(), answer(node="w1", value=proof("w0", 1, "r"))),
    ),
    "an answer that no handler made": ("wrong answer", (invoke(), start(), answer(value=""))),
    "an answer to all without a start": (
        "wrong answer",
        (invoke("all"), Outcome(at=T + 1, request="r", parts={"w0": Part(value=proof("w0", 1, "r"))})),
    ),
    "an event that a service did not get": ("lost event", (invoke("event"), start(), Outcome(at=T + 1, request="r"))),
    "a request to all that nobody is said to handle": (
        "forgotten handlers",
        (*(fault(node) for node in WORKERS), invoke("all"), failure("handler_not_found", "no")),
    ),
    "a call without an outcome": ("hang", (invoke(), start())),
    "a call that ends too late": ("hang", (fault("w0"), invoke(timeout=2.0), failure("timeout", "maybe", T + 3.1))),
    "a start after the deadline": (
        "late run",
        (fault("w0"), invoke(timeout=0.5), failure("timeout", "maybe", T + 0.5), start(at=T + 1.1)),
    ),
    "a second start after a thaw": (
        "late run",
        (
            fault("w0", T + 0.1, T + 9, what="freeze"),
            invoke(timeout=0.5),
            failure("timeout", "maybe", T + 0.5),
            start(at=T + 9.001, request="other"),
            start(at=T + 9.002),
        ),
    ),
    "an idempotent failure with two workers undisturbed": (
        "idempotent failed",
        (fault("w0"), invoke("read"), failure("maybe_executed", "maybe")),
    ),
    "an idempotent time-out with two workers undisturbed": (
        "idempotent failed",
        (fault("w0"), invoke("read"), failure("timeout", "maybe", T + 5)),
    ),
    "a failure while nothing was done to anybody": ("failed in calm", (invoke(), failure("maybe_executed", "maybe"))),
    "a part that fails while nothing was done to anybody": (
        "failed in calm",
        (invoke("all"), Outcome(at=T + 1, request="r", parts={"w0": Part(code="timeout", execution="maybe")})),
    ),
    "a member that is not seen": (
        "wrong view",
        (Seen(at=200.0, caller="c0", nodes={"w0": (1, "alive"), "w1": (2, "alive")}),),
    ),
    "a dead member that is seen": ("wrong view", (Gone(at=150.0, node="w0", life=1),)),
    "a former life that is seen": ("wrong view", (life("w0", 9, at=150.0),)),
    "a member that is suspected": ("wrong view", (Seen(at=200.0, caller="c0", nodes=view(w0=(1, "suspect"))),)),
    "a view that nobody took": ("wrong view", (Seen(at=200.0, caller="c9", nodes=view()),)),
    "a probe that fails": ("failed probe", (Probe(at=200.0, caller="c0", sent=20, errors=["probe-1 (add): timeout"]),)),
    "the death of a worker that lives": ("false death", (left(),)),
    "the death of a worker beside the broker's": ("false death", (fault(BROKER), left())),
    "a node that does not leave": ("slow leave", (Left(at=T, node="w0", status=-9, seconds=30.0),)),
    "a start that fails": ("failed join", (Failed(at=T, node="w0", text="no"),)),
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_keeps_the_promises_is_no_violation(name: str) -> None:
    assert check(history_of(*RIGHT[name])) == []


@pytest.mark.parametrize("name", WRONG)
def test_a_broken_promise_is_found_as_what_it_is(name: str) -> None:
    rule, records = WRONG[name]
    assert set(rules(*records)) == {rule}


def test_the_report_of_a_violation_has_all_records_about_it_and_the_faults_around_it() -> None:
    history = history_of(fault("w2"), invoke(), start(), start(node="w1"), answer(), fault("w0", at=1.0, until=2.0))
    told = report(history, [Violation("ran twice", "r", T, "it ran twice")])
    assert "RAN TWICE r at 100.000: it ran twice" in told
    for word in ("Invoke", "Start request=r node=w0", "Start request=r node=w1", "Outcome", "Fault target=w2"):
        assert word in told
    assert "Fault target=w0" not in told  # long before


def test_the_summary_counts_how_calls_ended() -> None:
    assert summary(history_of(invoke(), start(), answer(), fault("w0"))) == "1 calls (1 ok), 1 starts; faults: 1 kill"


def test_what_is_written_down_is_read_back_in_the_order_of_time(tmp_path: Path) -> None:
    records = [invoke(at=now()), start(at=now()), answer(at=now()), fault("w0", now(), now())]
    for number, record in enumerate(reversed(records)):
        Log(tmp_path / f"{number}.jsonl").write(record)
    with (tmp_path / "0.jsonl").open("ab") as file:
        file.write(b'{"type":"Start","at"')  # the process was killed here
    assert read(tmp_path) == records


def test_a_seed_gives_one_plan() -> None:
    assert plan(7, 40.0) == plan(7, 40.0)
    assert plan(7, 40.0) != plan(8, 40.0)


def test_plans_leave_time_to_begin_and_to_calm_down() -> None:
    for seed in range(200):
        planned = plan(seed, 40.0)
        assert 3 <= len(planned.workers) <= 5
        assert planned.faults
        assert all(fault.at >= 2.0 and fault.at + fault.lasts <= 39.0 for fault in planned.faults)
