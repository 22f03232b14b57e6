"""Explanations of single choices."""

from collections.abc import Sequence

from catga import LocalFirst, NodeInfo, Request, RoundRobin
from catga.abc import RoutingStrategy
from catga.cluster import Explanation, OutlierEjection
from catga.cluster.explain import explain
from catga.cluster.outliers import Outliers
from catga.errors import CatgaTimeoutError
from catga.node import NodeState
from catga.result import Failure
from catga.routing import Candidates, PreferZone, Stats


class Ask(Request[None]):
    pass


class World:
    def __init__(self) -> None:
        self.loads: dict[str, float] = {}
        self.stats = Stats(lambda node_id: self.loads.get(node_id, 0.0), clock=lambda: 0.0)
        settings = OutlierEjection(failures=1, base=10.0)
        self.outliers = Outliers(settings, self.stats, clock=lambda: 0.0)
        self.members = [
            NodeInfo(node_id="a", handles=("ask",), metadata={"zone": "x"}),
            NodeInfo(node_id="b", handles=("ask",), metadata={"zone": "y"}),
            NodeInfo(node_id="c", handles=("ask",), state=NodeState.SUSPECT),
        ]
        self.candidates = Candidates(self.members[:2], self.stats, "a")

    def explain(self, strategy: RoutingStrategy) -> Explanation:
        return explain(Ask(), "ask", self.members, self.candidates, strategy, self.outliers)


def reasons(explanation: Explanation) -> dict[str, str]:
    return {out.node_id: out.reason for out in explanation.left_out}


def test_a_suspect_and_a_node_outside_the_zone_are_named() -> None:
    world = World()
    explanation = world.explain(PreferZone("x"))
    assert explanation.choice == "a"
    assert reasons(explanation) == {"b": "is not in the zone 'x'", "c": "is suspect: it does not answer"}


def test_when_calls_spill_over_the_zone_leaves_nobody_out() -> None:
    world = World()
    world.loads["a"] = 2.0
    assert world.explain(PreferZone("x")).candidates == ("a", "b")
    assert "load 2.00" in str(world.explain(PreferZone("x")))


def test_the_node_that_stays_local_is_not_called_filtered_out() -> None:
    explanation = World().explain(LocalFirst(PreferZone("y")))
    assert explanation.choice == "a"
    assert "a" in explanation.candidates


def test_an_outlier_is_named_with_the_time_that_is_left_or_its_trial() -> None:
    world = World()
    stats = world.outliers.stats["b"]
    world.outliers.ended(stats, stats.started(), Failure(CatgaTimeoutError("late")))
    explanation = world.explain(RoundRobin())
    assert explanation.candidates == ("a",)
    assert reasons(explanation)["b"].startswith("is an outlier: left out for ")


def test_without_candidates_it_says_so() -> None:
    world = World()
    world.candidates = Candidates((), world.stats)
    explanation = world.explain(RoundRobin())
    assert explanation.choice is None
    assert "ask goes nowhere: there is no candidate" in str(explanation)


def test_a_strategy_that_cannot_be_copied_is_not_asked() -> None:
    class Stubborn:
        asked = 0

        def __deepcopy__(self, memo: object) -> "Stubborn":
            raise TypeError("it has a lock")

        def select(self, nodes: Sequence[NodeInfo], message: object) -> NodeInfo:
            self.asked += 1
            return nodes[0]

    strategy = Stubborn()
    explanation = World().explain(strategy)
    assert explanation.choice is None
    assert "Stubborn cannot be copied to ask it: it has a lock" in explanation.error
    assert strategy.asked == 0
