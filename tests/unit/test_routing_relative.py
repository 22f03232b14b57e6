"""Who is left out for a message type: a node that fails it while the others do not. The test moves the clock."""

from collections.abc import Callable, Iterable

import pytest

from catga.cluster import OutlierEjection
from catga.cluster.answers import Answers
from catga.cluster.outliers import MAX_KEYS, Kind, Outliers
from catga.errors import (
    CatgaError,
    CatgaTimeoutError,
    CircuitOpenError,
    ClosedError,
    Execution,
    HandlerError,
    InProgressError,
    InvalidMessageError,
    MaybeExecutedError,
    OverloadedError,
    RateLimitedError,
    StoreError,
)
from catga.node import NodeInfo
from catga.result import CatgaResult, Failure, Success
from catga.routing import Candidates, Stats

DONE: CatgaResult[object] = Success(1)
BROKEN: CatgaResult[object] = Failure(HandlerError("disk full"))
LATE: CatgaResult[object] = Failure(CatgaTimeoutError("late"))


class SoldOutError(CatgaError):
    """An error class of a program: an answer."""

    code = "relative.sold_out"


def answered(error: CatgaError) -> CatgaResult[object]:
    """As everything that comes out of a pipeline."""
    error.execution = Execution.ANSWERED
    return Failure(error)


class World:
    """Four nodes, and one sender's view of them."""

    def __init__(self, ids: str = "abcd", **settings: float) -> None:
        self.now = 0.0
        self.stats = Stats(clock=lambda: self.now)
        self.outliers = Outliers(
            OutlierEjection(**settings),  # type: ignore[arg-type]
            self.stats,
            clock=lambda: self.now,
        )
        self.nodes = Candidates([NodeInfo(node_id=name) for name in ids], self.stats)

    def begin(
        self, node_id: str, name: str = "work", pool: str = "", key: object = None
    ) -> Callable[[CatgaResult[object] | None], None]:
        stats = self.stats[node_id]
        started, trials = stats.started(), self.outliers.trials(node_id, name)
        nodes = [node for node in self.nodes if not pool or node.node_id in pool]
        kind = Kind(name, lambda: nodes, key)
        return lambda result: self.outliers.ended(stats, started, result, trials=trials, of=kind)

    def call(self, ids: Iterable[str], result: CatgaResult[object] | None, name: str = "work", pool: str = "") -> None:
        for node_id in ids:
            end = self.begin(node_id, name, pool)
            self.now += 0.01
            end(result)

    def out(self, name: str = "work") -> str:
        admitted = self.outliers.admit(self.nodes, set(), name)
        return "".join(node.node_id for node in self.nodes if node not in admitted)

    def break_a(self, result: CatgaResult[object] = BROKEN) -> None:
        for _ in range(5):
            self.call("a", result)
            self.call("bcd", DONE)


@pytest.mark.parametrize(
    "error",
    [
        HandlerError("disk full"),
        CircuitOpenError("failed 5 times in a row"),
        RateLimitedError("more than 10 a second"),
        OverloadedError("10 run and 5 wait"),
        StoreError("Redis is away"),
        CatgaTimeoutError("its own call took too long"),
        MaybeExecutedError("of its own call"),
    ],
    ids=lambda error: error.code,
)
def test_a_node_that_fails_what_the_others_do_not_is_left_out(error: CatgaError) -> None:
    world = World()
    world.break_a(answered(error))
    assert world.out() == "a"


def test_a_node_that_is_too_slow_for_a_part_of_its_calls_is_left_out_though_they_are_not_in_a_row() -> None:
    world = World()
    for result in (LATE, LATE, DONE) * 6:
        world.call("a", result)
        world.call("bcd", DONE)
    assert world.out() == "a"


@pytest.mark.parametrize("ids", ["a", "abcd"])
def test_where_all_are_too_slow_nobody_is_left_out_for_that(ids: str) -> None:
    world = World("abcd" if ids == "abcd" else "a")
    for result in (LATE, LATE, DONE) * 10:
        world.call(ids, result)
    assert world.out() == ""


@pytest.mark.parametrize(
    "error",
    [
        SoldOutError("no more"),
        InvalidMessageError("no such sku"),
        InProgressError("it runs"),
        CatgaError("unknown code"),
    ],
    ids=lambda error: error.code,
)
def test_an_error_that_is_meant_as_an_answer_is_no_fault_of_the_node(error: CatgaError) -> None:
    world = World()
    for _ in range(50):
        world.call("a", answered(error))
        world.call("bcd", DONE)
    assert world.out() == ""
    assert world.stats["a"].failing == 0.0


def test_who_refuses_before_the_handler_runs_is_not_left_out_as_the_call_goes_elsewhere() -> None:
    world = World()
    for error in (OverloadedError("full"), ClosedError("draining")):
        world.break_a(Failure(error))
    assert world.out() == ""
    assert world.stats["a"].failing > 0.25


def test_where_all_fail_alike_nobody_is_left_out() -> None:
    world = World()
    for _ in range(100):
        world.call("abcd", BROKEN)
    assert world.out() == ""
    for _ in range(100):
        world.call("abcd", DONE)
        world.call("dbac", BROKEN)
    assert world.out() == ""


def test_four_failures_are_too_few_and_so_are_few_answers_of_the_others() -> None:
    world = World()
    world.call("a", BROKEN)
    world.call("bcd" * 5, DONE)
    world.call("aaa", BROKEN)
    assert world.out() == ""
    world.call("a", BROKEN)
    assert world.out() == "a"
    world = World()
    world.call("a" * 100, BROKEN)
    world.call("b", DONE)
    world.call("aa", BROKEN)
    assert world.out() == "a"  # a hundred to nothing, though the other answered once


def test_a_message_type_that_no_node_can_handle_has_no_outliers_though_the_same_nodes_do_well_otherwise() -> None:
    """Two of the four nodes handle it; all four handle the rest."""
    world = World()
    for _ in range(50):
        world.call("ab", BROKEN, "poison", pool="ab")
        world.call("abcd", DONE, "work")
    assert world.out("poison") == ""
    assert world.out("work") == ""


def test_a_node_is_left_out_for_what_it_fails_and_for_nothing_else() -> None:
    world = World()
    for _ in range(5):
        world.call("a", BROKEN, "write")
        world.call("bcd", DONE, "write")
        world.call("abcd", DONE, "read")
    assert world.out("write") == "a"
    assert world.out("read") == ""
    assert world.outliers.concern("write")
    assert not world.outliers.concern("read")


def test_half_of_the_nodes_may_be_as_bad() -> None:
    world = World()
    for _ in range(10):
        world.call("ab", BROKEN)
        world.call("cd", DONE)
    assert world.out() == "ab"


def test_it_comes_back_through_a_call_that_goes_well_and_is_out_for_longer_if_it_does_not() -> None:
    world = World()
    world.break_a()
    world.now += 1.3
    assert world.out() == ""
    world.call("a", BROKEN)
    assert world.out() == "a"
    assert 1.6 < world.outliers.left_out(world.nodes, "work")["a"] < 2.4
    world.now += 2.5
    end = world.begin("a")
    assert world.out() == "a"
    end(DONE)
    assert world.out() == ""
    world.call("a" * 4, BROKEN)
    assert world.out() == ""


def test_a_trial_that_fails_as_all_others_do_by_now_brings_it_back() -> None:
    world = World()
    world.break_a()
    world.call("bcd" * 30, BROKEN)
    world.now += 1.3
    world.call("a", BROKEN)
    assert world.out() == ""


def test_an_answer_that_tells_of_the_message_alone_decides_no_trial() -> None:
    world = World()
    world.break_a()
    world.now += 1.3
    world.call("a", Failure(InvalidMessageError("no such sku")))
    world.call("a", BROKEN)
    assert world.out() == "a"


def test_a_node_that_fails_again_soon_after_it_was_back_is_left_out_for_longer() -> None:
    world = World()
    for seconds in (1, 2, 4, 8):
        world.break_a()
        (left,) = world.outliers.left_out(world.nodes, "work").values()
        assert 0.7 * seconds <= left <= 1.21 * seconds
        world.now += left + 0.01
        world.call("a", DONE)
    world.now += 61
    world.break_a()
    (left,) = world.outliers.left_out(world.nodes, "work").values()
    assert left <= 1.21


def test_a_key_that_fails_wherever_it_goes_leaves_nobody_out_but_many_keys_do() -> None:
    world = World()
    for _ in range(100):
        world.begin("a", key="poison")(BROKEN)
        world.call("bcd", DONE)
    assert world.out() == ""
    for number in range(5):
        world.begin("a", key=number)(BROKEN)
    assert world.out() == "a"
    world.now += 1.3
    world.begin("a", key=4)(BROKEN)  # decides nothing
    assert world.out() == ""
    world.begin("a", key="another")(DONE)
    assert not world.outliers.ejected


def test_a_few_keys_that_fail_wherever_they_go_leave_nobody_out() -> None:
    """As two large tenants do whose calls are too slow, with light ones between them."""
    world = World()
    for number in range(200):
        world.begin("a", key=number % 4)(LATE if number % 2 else BROKEN)
        world.call("abcd", DONE)
    assert world.out() == ""
    for number in range(4, MAX_KEYS + 100):
        world.outliers.suspected["a", "work"].has_failed_before(number, world.now, just=False)
    assert len(world.outliers.suspected["a", "work"].failing_keys) == MAX_KEYS


@pytest.mark.parametrize("answered", [True, False])
def test_a_key_that_failed_once_counts_again_after_an_answer_or_a_minute(answered: bool) -> None:
    world = World()
    for key in range(20):
        world.begin("a", key=key)(BROKEN)
        if answered:
            world.begin("a", key=key)(DONE)
        world.now += 30
        world.call("abcd" * 30, DONE)
    assert world.out() == ""
    world.now += 0 if answered else 31
    for key in range(12):
        world.begin("a", key=key)(BROKEN)
    assert world.out() == "a"


def test_a_node_may_be_left_out_for_two_reasons_and_each_has_its_trial() -> None:
    world = World()
    world.break_a()
    world.call("a" * 5, LATE)
    assert world.out("work") == "a"
    assert world.out("read") == "a"
    world.now += 1.3
    world.call("a", DONE, "read")
    assert world.out("read") == ""
    end = world.begin("a", "work")
    assert world.out("work") == "a"
    end(DONE)
    assert world.out("work") == ""
    assert not world.outliers.ejected


def test_successes_are_counted_as_a_delivery_tells_them() -> None:
    world = World()
    world.call("a", BROKEN)
    for _ in range(30):
        for node_id in "abcd":
            stats = world.stats[node_id]
            stats.ended(stats.started())
            world.outliers.cleared(stats, Success(1), "work")
    world.call("aaaaa", BROKEN)
    assert world.out() == ""  # 5 of more than 20
    world.call("a" * 20, BROKEN)
    assert world.out() == "a"


def test_nothing_is_counted_any_more_a_minute_after_the_last_failure() -> None:
    world = World()
    world.call("a", BROKEN)
    assert world.outliers.suspected
    world.now += 61
    world.call("a" * 25, DONE)
    assert not world.outliers.suspected


def test_a_node_that_left_is_forgotten() -> None:
    world = World()
    end = world.begin("a")
    world.break_a()
    world.outliers.forget("a")
    end(BROKEN)  # a call to its former life
    assert world.out() == ""
    assert not world.outliers.suspected


def test_a_failure_of_a_former_life_begins_no_count() -> None:
    world = World()
    end = world.begin("a")
    world.outliers.forget("a")
    end(BROKEN)
    for _ in range(50):
        stats = world.stats["a"]
        stats.ended(stats.started())
        world.outliers.cleared(stats, Success(1), "work")
    assert not world.outliers.suspected


@pytest.mark.parametrize("settings", [{"failures": 0}, {"relative": False}], ids=str)
def test_it_can_be_switched_off(settings: dict[str, float]) -> None:
    world = World(**settings)
    world.break_a()
    world.break_a()
    assert world.out() == ""
    assert not world.outliers.suspected


def test_more_failures_can_be_asked_for() -> None:
    world = World(failures=50)
    world.break_a()
    assert world.out() == ""
    world.call("a" * 44, BROKEN)
    assert world.out() == ""
    world.call("a", BROKEN)
    assert world.out() == "a"


def test_chance_is_no_outlier() -> None:
    answers = Answers(5)
    for node_id, calls, failures in (("a", 10, 8), ("b", 10, 3), ("c", 10, 3), ("d", 10, 4)):
        for number in range(calls):
            answers.count(node_id, failed=number < failures)
    assert not answers.is_outlier("a", "abcd")  # half more, but of ten calls
    for _ in range(9):
        answers.count("a", failed=True)
    assert answers.is_outlier("a", "abcd")
    assert not answers.is_outlier("a", "a")  # there is nobody to compare it with
