"""Outlier ejection, driven by a clock that the test moves."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catga.cluster import OutlierEjection
from catga.cluster.outliers import Outliers
from catga.errors import (
    CatgaError,
    CatgaTimeoutError,
    ClosedError,
    ClusterError,
    HandlerError,
    MaybeExecutedError,
    OverloadedError,
)
from catga.node import NodeInfo
from catga.result import CatgaResult, Failure, Success
from catga.routing import Candidates, Stats

LATE: CatgaResult[object] = Failure(CatgaTimeoutError("late"))
DONE: CatgaResult[object] = Success(1)


class World:
    """Three nodes and their outliers."""

    def __init__(self, **settings: float) -> None:
        self.now = 0.0
        self.deaf = False
        self.outliers = Outliers(
            OutlierEjection(**settings),  # type: ignore[arg-type]
            Stats(clock=lambda: self.now),
            deaf=lambda: self.deaf,
            clock=lambda: self.now,
        )
        self.nodes = Candidates([NodeInfo(node_id=name) for name in "abc"], self.outliers.stats)

    def call(self, node_id: str, result: CatgaResult[object] | None, times: int = 1) -> None:
        for _ in range(times):
            end = self.begin(node_id)
            self.now += 0.01
            end(result)

    def begin(self, node_id: str) -> Callable[[CatgaResult[object] | None], None]:
        stats = self.outliers.stats[node_id]
        started, trials = stats.started(), self.outliers.trials(node_id)
        return lambda result: self.outliers.ended(stats, started, result, trials=trials)

    def admitted(self, *tried: str) -> str:
        return "".join(node.node_id for node in self.outliers.admit(self.nodes, set(tried)))


@pytest.fixture
def world() -> World:
    return World(failures=5, base=1.0, longest=10.0)


def test_a_node_that_fails_five_times_in_a_row_is_left_out(world: World) -> None:
    world.call("a", LATE, 4)
    assert world.admitted() == "abc"
    world.call("a", LATE)
    assert world.admitted() == "bc"


def test_a_success_in_between_begins_the_count_anew(world: World) -> None:
    for _ in range(5):
        world.call("a", LATE, 4)
        world.call("a", DONE)
    assert world.admitted() == "abc"


@pytest.mark.parametrize(
    "error", [HandlerError("no"), OverloadedError("full"), ClosedError("draining"), CatgaError("x")]
)
def test_an_answer_is_no_failure_of_the_node(world: World, error: CatgaError) -> None:
    world.call("a", Failure(error), 20)
    assert world.admitted() == "abc"


def test_a_call_that_did_not_get_as_far_as_the_node_is_no_failure_of_it(world: World) -> None:
    """The broker may refuse all that this node publishes. Who has left is found by membership."""
    world.call("a", Failure(ClusterError("the broker refuses the message")), 20)
    assert world.admitted() == "abc"
    world.call("a", Failure(MaybeExecutedError("the node was lost")), 5)
    assert world.admitted() == "bc"


def test_handler_errors_count_if_they_are_asked_to() -> None:
    world = World(handler_errors=True)
    world.call("a", Failure(HandlerError("disk full")), 5)
    assert world.admitted() == "bc"


def test_failures_while_the_bus_is_silent_say_nothing_of_the_node(world: World) -> None:
    world.deaf = True
    world.call("a", LATE, 20)
    world.call("a", Failure(ClusterError("the link is down")), 20)
    assert world.admitted() == "abc"


def test_a_call_that_its_caller_cancelled_says_nothing_of_the_node(world: World) -> None:
    world.call("a", None, 20)
    assert world.admitted() == "abc"


def test_it_comes_back_through_one_trial_call(world: World) -> None:
    world.call("a", LATE, 5)
    world.now += 1.3
    assert world.admitted() == "abc"
    end = world.begin("a")
    assert world.admitted() == "bc"  # until the trial has ended nobody else goes there
    end(DONE)
    assert world.admitted() == "abc"
    world.call("a", LATE, 4)
    assert world.admitted() == "abc"


def test_a_trial_that_fails_leaves_it_out_for_longer_each_time_up_to_a_limit(world: World) -> None:
    world.call("a", LATE, 5)
    times: list[float] = []
    for _ in range(7):
        (seconds,) = world.outliers.left_out(world.nodes).values()
        times.append(seconds)
        world.now += seconds + 0.001
        world.call("a", LATE)
    for seconds, middle in zip(times, [1, 2, 4, 8, 10, 10, 10], strict=True):
        assert 0.8 * middle <= seconds <= 1.2 * middle


def test_a_trial_that_is_cancelled_makes_room_for_another(world: World) -> None:
    world.call("a", LATE, 5)
    world.now += 1.3
    world.call("a", None)
    assert world.admitted() == "abc"


def test_a_late_answer_to_an_earlier_call_brings_no_node_back(world: World) -> None:
    end = world.begin("a")
    world.call("a", LATE, 5)
    end(DONE)
    assert world.admitted() == "bc"


@given(
    events=st.lists(st.tuples(st.sampled_from("abcdefg"), st.booleans(), st.floats(0, 3)), max_size=200),
    share=st.floats(0, 0.99),
    size=st.integers(1, 7),
)
def test_never_more_than_the_share_is_left_out_and_never_all(
    events: list[tuple[str, bool, float]], share: float, size: int
) -> None:
    world = World(failures=1, share=share)
    nodes = Candidates([NodeInfo(node_id=name) for name in "abcdefg"[:size]], world.outliers.stats)
    for node_id, ok, wait in events:
        world.call(node_id, DONE if ok else LATE)
        admitted = world.outliers.admit(nodes, set())
        assert len(nodes) - len(admitted) <= share * len(nodes)
        assert admitted
        world.now += wait


def test_a_retry_takes_an_outlier_rather_than_nobody(world: World) -> None:
    world.call("a", LATE, 5)
    assert world.admitted("b") == "c"
    assert world.admitted("b", "c") == "a"
    assert world.admitted("a", "b", "c") == ""


def test_a_node_that_left_and_returns_begins_anew(world: World) -> None:
    end = world.begin("a")
    world.call("a", LATE, 5)
    world.outliers.forget("a")
    end(LATE)  # a call to its former life
    assert world.admitted() == "abc"
    assert world.outliers.stats["a"].inflight == 0


def test_a_node_that_was_idle_owes_nothing_for_that_time(world: World) -> None:
    world.call("a", DONE)
    world.now += 60
    end = world.begin("a")
    assert world.outliers.stats["a"].latency < 0.01
    end(DONE)


def test_ejection_can_be_switched_off() -> None:
    world = World(failures=0)
    world.call("a", LATE, 100)
    assert world.admitted() == "abc"


@pytest.mark.parametrize("bad", [{"failures": -1}, {"base": 0}, {"base": 2, "longest": 1}, {"share": 1}])
def test_settings_that_cannot_work_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        OutlierEjection(**bad)  # type: ignore[arg-type]
