"""What each strategy promises, with plain lists and with what a node has seen."""

import copy
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from catga import LoadBased, LocalFirst, NodeInfo, Random, Request, RoundRobin
from catga.abc import RoutingStrategy
from catga.errors import InvalidMessageError, NoNodeAvailableError
from catga.routing import Candidates, ConsistentHash, NodeStats, PreferZone, Stats, Weighted, Where
from catga.routing.load_based import cost


@dataclass(frozen=True)
class Ask(Request[None]):
    pass


@dataclass(frozen=True)
class Tell(Request[None]):
    pass


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def node(node_id: str, **metadata: str) -> NodeInfo:
    return NodeInfo(node_id=node_id, metadata=metadata)


def picks(strategy: RoutingStrategy, nodes: Sequence[NodeInfo], times: int = 600) -> Counter[str]:
    return Counter(strategy.select(nodes, Ask()).node_id for _ in range(times))


ALL: list[RoutingStrategy] = [
    RoundRobin(),
    Random(),
    LoadBased(),
    LoadBased(least=True),
    LocalFirst(),
    Weighted(),
    PreferZone("a"),
    Where(lambda node: True),
]


@pytest.mark.parametrize("strategy", ALL, ids=repr)
def test_every_strategy_takes_a_plain_list_and_one_node(strategy: RoutingStrategy) -> None:
    plain = [node("a"), node("b")]
    assert strategy.select(plain, Ask()) in plain
    assert strategy.select(plain[:1], Ask()) is plain[0]


@pytest.mark.parametrize("strategy", ALL, ids=repr)
def test_no_strategy_chooses_a_node_that_was_left_out(strategy: RoutingStrategy) -> None:
    rest = Candidates([node("a"), node("b"), node("c")], local_id="b").without({"b"})
    assert set(picks(strategy, rest, 100)) <= {"a", "c"}


def test_round_robin_takes_turns_by_message_type() -> None:
    strategy, nodes = RoundRobin(), [node("a"), node("b"), node("c")]
    ask, tell = ("".join(strategy.select(nodes, m).node_id for m in [message] * 4) for message in (Ask(), Tell()))
    assert ask in "abcabcabc"
    assert tell in "abcabcabc"
    assert (strategy.select(nodes, Ask()).node_id, strategy.select(nodes, Tell()).node_id) == (ask[1], tell[1])


def test_round_robin_begins_anywhere_for_each_type_and_again_so_with_a_seed() -> None:
    """Many types that are sent once each reach all nodes."""
    nodes = [node("a"), node("b"), node("c")]
    types = [type(f"Kind{number}", (Ask,), {}) for number in range(100)]

    def firsts(strategy: RoundRobin) -> list[str]:
        return [strategy.select(nodes, kind()).node_id for kind in types]

    assert set(firsts(RoundRobin())) == {"a", "b", "c"}
    assert firsts(RoundRobin(seed=1)) == firsts(RoundRobin(seed=1))
    assert firsts(RoundRobin(seed=1)) != firsts(RoundRobin(seed=2))


def test_what_round_robin_would_choose_first_is_what_it_chooses() -> None:
    """`explain` asks a copy."""
    nodes = [node(name) for name in "abcdefgh"]
    for _ in range(20):
        strategy = RoundRobin()
        told = [copy.deepcopy(strategy).select(nodes, Ask()).node_id for _ in range(3)]
        assert told == [strategy.select(nodes, Ask()).node_id] * 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is forked here")
def test_forked_processes_begin_at_different_nodes() -> None:
    """As servers do that load the program before they fork their workers, also if the program has called before."""
    nodes, made = [node(name) for name in "abcdefgh"], RoundRobin()
    made.select(nodes, Ask())
    reader, writer = os.pipe()
    for _ in range(24):
        if (child := os.fork()) == 0:
            os.write(writer, made.select(nodes, Ask()).node_id.encode())
            os._exit(0)
        os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader) as told:
        assert len(set(told.read())) > 2


@pytest.mark.parametrize("count", [3, 4, 6])
def test_those_that_a_full_node_sends_on_are_spread_evenly(count: int) -> None:
    """They take nobody's turn."""
    candidates = Candidates([node(name) for name in "abcdef"[:count]])
    strategy, taken = RoundRobin(), Counter[str]()
    for _ in range(60 * count):
        first = strategy.select(candidates, Ask()).node_id
        taken[strategy.select(candidates.without({"a"}), Ask()).node_id if first == "a" else first] += 1
    assert "a" not in taken
    assert max(taken.values()) - min(taken.values()) <= 1


def test_random_reaches_all_and_a_seed_repeats_it() -> None:
    nodes = [node("a"), node("b"), node("c")]
    assert min(picks(Random(), nodes).values()) > 100
    assert picks(Random(seed=1), nodes) == picks(Random(seed=1), nodes)


def took(stats: NodeStats, seconds: float, *, at_least: bool = False) -> None:
    stats.ended(stats.started() - seconds, answered=not at_least)


@pytest.mark.parametrize("strategy", [LoadBased(seed=1), LoadBased(least=True, seed=1)], ids=repr)
def test_load_based_keeps_away_from_a_node_with_calls_in_flight(strategy: LoadBased) -> None:
    nodes = Candidates([node("a"), node("b"), node("c")])
    for _ in range(3):
        nodes.stats["a"].started()
    assert picks(strategy, nodes)["a"] == 0


def test_load_based_prefers_the_faster_node_and_the_less_loaded_one() -> None:
    clock, loads = Clock(), {"a": 0.0, "b": 0.0}
    nodes = Candidates([node("a"), node("b")], Stats(loads.__getitem__, clock))
    took(nodes.stats["a"], 0.02)
    took(nodes.stats["b"], 0.01)
    assert picks(LoadBased(), nodes) == {"b": 600}
    loads["b"] = 2.0
    assert picks(LoadBased(), nodes) == {"b": 600}  # it may be for a moment
    clock.now += 2.0
    assert picks(LoadBased(), nodes) == {"a": 600}


def sent(strategy: LoadBased, nodes: Candidates, clock: Clock, needs: dict[str, float], times: int) -> Counter[str]:
    """Where `times` requests go, one after the other, ten a second, and each answered after what its node needs."""
    counts: Counter[str] = Counter()
    for _ in range(times):
        stats = nodes.stats[strategy.select(nodes, Ask()).node_id]
        counts[stats.node_id] += 1
        clock.now += 0.1
        stats.started()
        stats.ended(clock.now - needs[stats.node_id])
    return counts


BOTH = [LoadBased(seed=1), LoadBased(least=True, seed=1)]


@pytest.mark.parametrize("strategy", BOTH, ids=repr)
def test_load_based_sends_nearly_all_to_the_idle_one_of_two_nodes(strategy: LoadBased) -> None:
    clock, loads = Clock(), {"a": 1.0, "b": 0.0}
    nodes = Candidates([node("a"), node("b")], Stats(loads.__getitem__, clock))
    assert sent(strategy, nodes, clock, {"a": 0.01, "b": 0.01}, 1000)["b"] > 950


@pytest.mark.parametrize("strategy", BOTH, ids=repr)
def test_load_based_shares_calls_between_nodes_that_are_equally_busy(strategy: LoadBased) -> None:
    for load in (0.1, 0.9, 3.0):
        clock = Clock()
        nodes = Candidates([node("a"), node("b")], Stats({"a": load, "b": load}.__getitem__, clock))
        assert min(sent(strategy, nodes, clock, {"a": 0.01, "b": 0.01}, 1000).values()) > 300


def test_least_draws_the_idle_one_though_the_loaded_one_has_fewer_calls_in_flight() -> None:
    loads = {"a": 1.0, "b": 0.1}
    nodes = Candidates([node("a"), node("b")], Stats(loads.__getitem__, Clock()))
    for name in "ab":
        took(nodes.stats[name], 0.01)
    for _ in range(5):
        nodes.stats["b"].started()
    assert picks(LoadBased(least=True), nodes) == {"b": 600}


@pytest.mark.parametrize("strategy", BOTH, ids=repr)
def test_a_slow_spell_is_forgotten_within_seconds(strategy: LoadBased) -> None:
    clock = Clock()
    nodes = Candidates([node("a"), node("b")], Stats(clock=clock))
    for name in "ab":
        took(nodes.stats[name], 0.01)
    took(nodes.stats["a"], 1.0)
    needs = {"a": 0.01, "b": 0.01}
    assert sent(strategy, nodes, clock, needs, 30)["a"] == 0  # three seconds
    sent(strategy, nodes, clock, needs, 90)
    assert min(sent(strategy, nodes, clock, needs, 100).values()) > 30


def test_a_node_that_owes_answers_grows_dearer_while_it_is_silent() -> None:
    clock = Clock()
    nodes = Candidates([node("a"), node("b")], Stats(clock=clock))
    for name in "ab":
        took(nodes.stats[name], 0.01)
        nodes.stats[name].started()
    clock.now += 0.1
    nodes.stats["b"].ended(None)
    nodes.stats["b"].started()
    assert nodes.stats["a"].latency == pytest.approx(0.1)
    assert picks(LoadBased(), nodes) == {"b": 600}


def test_latency_rises_at_once_comes_down_slowly_and_is_forgotten() -> None:
    clock = Clock()
    stats = Stats(clock=clock)["a"]
    assert stats.latency == 0.0
    took(stats, 0.1)
    took(stats, 0.001)
    assert 0.09 < stats.latency <= 0.1
    took(stats, 0.05, at_least=True)
    assert 0.09 < stats.latency <= 0.1
    clock.now += 60
    assert stats.latency < 0.001


def test_calls_that_were_given_up_never_make_a_node_look_faster() -> None:
    clock = Clock()
    stats = Stats(clock=clock)["a"]
    took(stats, 1.0)
    for _ in range(100):
        clock.now += 0.0001
        took(stats, 0.9905 * stats.latency, at_least=True)
    assert stats.latency > 0.98


def fail(stats: NodeStats, seconds: float, *, is_fault: bool = True) -> None:
    stats.failed(stats.started() - seconds, is_fault=is_fault)


@pytest.mark.parametrize("is_fault", [True, False])
def test_a_failure_never_makes_a_node_look_faster(is_fault: bool) -> None:
    clock = Clock()
    nodes = Candidates([node("a"), node("b")], Stats(clock=clock))
    quick, usual = nodes.stats["a"], nodes.stats["b"]
    took(quick, 0.02)
    for _ in range(3000):  # a minute
        clock.now += 0.02
        fail(quick, 0.0001, is_fault=is_fault)
        took(usual, 0.02)
    assert quick.has_failed
    assert cost(quick, usual) >= cost(usual, quick)
    took(quick, 0.01)
    assert quick.latency == pytest.approx(0.01)
    assert cost(quick, usual) < cost(usual, quick)


def test_a_slow_failure_makes_a_node_look_slower() -> None:
    for first in (None, 0.02):
        stats = Stats(clock=Clock())["a"]
        if first is not None:
            took(stats, first)
        fail(stats, 0.3)
        assert stats.latency == pytest.approx(0.3)


def test_the_failing_share_of_a_busy_node_rises_by_a_twentieth_a_call_and_falls_by_what_goes_well() -> None:
    clock = Clock()
    stats = Stats(clock=clock)["a"]
    took(stats, 0.02)
    fail(stats, 0.02)
    assert stats.failing == pytest.approx(0.05)
    for _ in range(9):
        fail(stats, 0.02)
    assert stats.failing == pytest.approx(1 - 0.95**10)
    for _ in range(10):
        took(stats, 0.02)
    assert stats.failing == pytest.approx((1 - 0.95**10) * 0.95**10)
    for _ in range(200):
        took(stats, 0.02)
    assert stats.failing == stats.trouble == 0.0


def test_the_failing_share_of_an_idle_node_is_that_of_its_last_call_and_sinks_within_seconds() -> None:
    clock = Clock()
    stats = Stats(clock=clock)["a"]
    fail(stats, 0.02)
    assert stats.failing == 1.0
    clock.now += 2.0
    assert stats.failing == pytest.approx(0.368, abs=0.001)
    clock.now += 100.0
    took(stats, 0.02)
    assert stats.failing == 0.0


@pytest.mark.parametrize("strategy", BOTH, ids=repr)
def test_load_based_prefers_whoever_fails_less_and_is_not_moved_where_all_fail_alike(strategy: LoadBased) -> None:
    nodes = Candidates([node("a"), node("b")], Stats(clock=Clock()))
    a, b = nodes.stats["a"], nodes.stats["b"]
    took(a, 0.001)
    took(b, 0.1)
    assert picks(strategy, nodes) == {"a": 600}
    for _ in range(7):
        fail(a, 0.001)
    assert picks(strategy, nodes) == {"b": 600}
    for _ in range(7):
        fail(b, 0.001)
    assert picks(strategy, nodes) == {"a": 600}


@pytest.mark.parametrize("strategy", BOTH, ids=repr)
def test_a_node_that_only_failed_is_tried_by_one_call_at_a_time(strategy: LoadBased) -> None:
    """It takes its time to fail, and all that come meanwhile would fail with it."""
    clock = Clock()
    nodes = Candidates([node("a"), node("b")], Stats(clock=clock))
    a, b = nodes.stats["a"], nodes.stats["b"]
    took(a, 0.02)
    for _ in range(5):
        clock.now += 0.3
        fail(a, 0.3)
    assert a.has_failed
    clock.now += 20.0
    for _ in range(30):
        took(b, 1.0)
        b.started()
    assert picks(strategy, nodes) == {"a": 600}
    a.started()
    assert picks(strategy, nodes) == {"b": 600}
    a.ended(clock.now - 0.02)
    assert picks(strategy, nodes) == {"a": 600}


@pytest.mark.parametrize("strategy", BOTH, ids=repr)
def test_a_burst_at_a_node_that_failed_long_ago_is_shared_as_if_it_were_as_slow_as_the_others(
    strategy: LoadBased,
) -> None:
    clock = Clock()
    nodes = Candidates([node("a"), node("b")], Stats(clock=clock))
    for _ in range(100):
        clock.now += 0.1
        fail(nodes.stats["a"], 0.0001)
        took(nodes.stats["b"], 5.0)
    clock.now += 20.0
    counts: Counter[str] = Counter()
    for _ in range(100):
        chosen = strategy.select(nodes, Ask()).node_id
        nodes.stats[chosen].started()
        counts[chosen] += 1
    assert counts["a"] <= 51


def test_a_local_node_that_fails_as_all_do_keeps_its_calls() -> None:
    nodes = Candidates([node("a"), node("b")], Stats(clock=Clock()), local_id="a")
    fail(nodes.stats["a"], 0.001)
    assert picks(LocalFirst(), nodes) == {"b": 600}
    fail(nodes.stats["b"], 0.001)
    assert picks(LocalFirst(), nodes) == {"a": 600}


def test_a_zone_is_left_while_all_its_nodes_fail_and_others_do_not() -> None:
    nodes = Candidates([node("a", zone="x"), node("b", zone="x"), node("c", zone="y")], Stats(clock=Clock()))
    fail(nodes.stats["a"], 0.001)
    assert set(picks(PreferZone("x"), nodes)) == {"a", "b"}
    fail(nodes.stats["b"], 0.001)
    assert set(picks(PreferZone("x"), nodes)) == {"a", "b", "c"}
    assert not list(PreferZone("x").reasons(nodes))
    fail(nodes.stats["c"], 0.001)
    assert set(picks(PreferZone("x"), nodes)) == {"a", "b"}


def test_local_first_stays_at_home_until_home_is_overloaded_or_left_out() -> None:
    load = 0.0
    nodes = Candidates([node("a"), node("b"), node("c")], Stats(lambda _: load), local_id="b")
    assert picks(LocalFirst(), nodes) == {"b": 600}
    load = 0.9
    assert set(picks(LocalFirst(), nodes)) == {"a", "c"}
    load = 0.0
    assert set(picks(LocalFirst(), nodes.without({"b"}))) == {"a", "c"}
    assert set(picks(LocalFirst(), Candidates([node("a"), node("c")], local_id="b"))) == {"a", "c"}


def test_weights_are_kept_and_nonsense_in_the_metadata_counts_as_the_default() -> None:
    counts = picks(Weighted(seed=3), [node("a", weight="3"), node("b", weight="1"), node("c", weight="0")], 4000)
    assert counts["c"] == 0
    assert 2.5 < counts["a"] / counts["b"] < 3.5
    odd = [node("a", weight="nan"), node("b", weight="-5"), node("c", weight="inf"), node("d", weight="x"), node("e")]
    assert min(picks(Weighted(seed=3), odd, 1000).values()) > 100
    assert len(picks(Weighted(), [node("a", weight="0"), node("b", weight="0")])) == 2


def test_where_lets_the_inner_strategy_choose_among_those_that_fit() -> None:
    nodes = Candidates([node("a", zone="x"), node("b", zone="y", version="2"), node("c", zone="y")])
    assert picks(Where(zone="y"), nodes) == {"b": 300, "c": 300}
    assert picks(Where(zone="y", version="2", then=Random()), nodes) == {"b": 600}
    assert picks(Where(lambda n: n.node_id > "a", zone="y"), nodes) == {"b": 300, "c": 300}
    with pytest.raises(NoNodeAvailableError, match="zone='z'"):
        Where(zone="z").select(nodes, Ask())
    with pytest.raises(NoNodeAvailableError):
        Where(zone="x").select(nodes.without({"a"}), Ask())


def test_a_preferred_zone_spills_over_when_it_is_empty_or_overloaded() -> None:
    loads = {"a": 0.0, "b": 0.0, "c": 0.0}
    nodes = Candidates([node("a", zone="x"), node("b", zone="x"), node("c", zone="y")], Stats(loads.__getitem__))
    assert set(picks(PreferZone("x"), nodes)) == {"a", "b"}
    loads.update(a=1.0)
    assert set(picks(PreferZone("x"), nodes)) == {"a", "b"}
    loads.update(b=1.5)
    assert set(picks(PreferZone("x"), nodes)) == {"a", "b", "c"}
    assert set(picks(PreferZone("z"), nodes)) == {"a", "b", "c"}
    assert set(picks(PreferZone("y"), nodes.without({"c"}))) == {"a", "b"}


@pytest.mark.parametrize("outer", [LocalFirst(ConsistentHash()), Where(zone="a", then=ConsistentHash())], ids=repr)
def test_a_filter_passes_on_what_its_inner_strategy_needs(outer: LocalFirst | Where) -> None:
    with pytest.raises(InvalidMessageError):
        outer.check(Ask)


def test_options_that_cannot_work_are_refused() -> None:
    with pytest.raises(ValueError, match="Where needs"):
        Where()
    with pytest.raises(ValueError, match="max_load"):
        LocalFirst(max_load=0)
    with pytest.raises(ValueError, match="max_load"):
        PreferZone("a", max_load=-1)
    with pytest.raises(ValueError, match="default"):
        Weighted(default=-1)
