"""Where calls go when one node of four fails, refuses, hangs or is slow; and when all of them do."""

from collections import Counter
from collections.abc import Callable

import balance_bed as bed
import pytest
from balance_bed import Node, Sender

from catga import ConsistentHash, LoadBased, LocalFirst, Random, RoundRobin
from catga.abc import RoutingStrategy
from catga.cluster import OutlierEjection
from catga.routing import Candidates, PreferZone, Weighted, Where

OFF = OutlierEjection(failures=0)
LEAST = 0.18
"""What a node of four gets of the calls at least, where all are alike."""

BY_STATS: dict[str, Callable[[], RoutingStrategy]] = {
    "LoadBased": lambda: LoadBased(seed=1),
    "LoadBased(least)": lambda: LoadBased(least=True, seed=1),
    "Where(LoadBased)": lambda: Where(lambda node: True, then=LoadBased(seed=1)),
    "PreferZone(LoadBased)": lambda: PreferZone("near", LoadBased(seed=1)),
    "LocalFirst(LoadBased)": lambda: LocalFirst(LoadBased(seed=1)),
    "ConsistentHash(max_load)": lambda: ConsistentHash(max_load=1.25),
}
ALL: dict[str, Callable[[], RoutingStrategy]] = {
    **BY_STATS,
    "RoundRobin": lambda: RoundRobin(seed=1),
    "Random": lambda: Random(seed=1),
    "Weighted": lambda: Weighted(seed=1),
    "ConsistentHash": lambda: ConsistentHash(),
}
BAD: dict[str, Callable[[], Node]] = {
    "fails at once": lambda: bed.fails_at_once,
    "is slow to fail": lambda: bed.is_slow_to_fail,
    "its circuit is open": lambda: bed.is_open,
    "its rate limit is reached": lambda: bed.rate_limited(10),
    "is full": lambda: bed.is_full,
    "hangs": lambda: bed.hangs,
    "is slow": lambda: bed.slow,
}
LOADS: dict[str, Callable[[Sender], None]] = {
    "200 per second": lambda sender: sender.send_often(200, 5),
    "8 clients": lambda sender: sender.send_in_turn(8, 3),
}


def sender(strategy: RoutingStrategy, bad: Node, settings: OutlierEjection, local_id: str = "") -> Sender:
    nodes = {"bad": bad, "b": bed.well, "c": bed.well, "d": bed.well}
    return Sender(strategy, nodes, settings, local_id, zones={"bad": "near", "b": "near"})


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", BY_STATS)
def test_no_strategy_that_looks_at_the_nodes_fails_more_than_round_robin(name: str, bad: str, load: str) -> None:
    ours, theirs = (sender(s, BAD[bad](), OFF) for s in (BY_STATS[name](), RoundRobin(seed=1)))
    for each in (ours, theirs):
        LOADS[load](each)
    assert ours.failed() <= theirs.failed() + 0.005  # hashes are even by and large only


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", ALL)
def test_by_default_hardly_a_call_fails_after_the_first_second(name: str, bad: str, load: str) -> None:
    ours = sender(ALL[name](), BAD[bad](), OutlierEjection())
    LOADS[load](ours)
    assert ours.failed(after=1.0) <= 0.03


@pytest.mark.parametrize("bad", ["fails at once", "its circuit is open", "is slow to fail"])
def test_load_based_gives_a_failing_node_next_to_nothing_even_if_nobody_is_ever_left_out(bad: str) -> None:
    for strategy in (LoadBased(seed=1), LoadBased(least=True, seed=1)):
        ours = sender(strategy, BAD[bad](), OFF)
        ours.send_often(400, 8)
        assert 0 < ours.attempts["bad"] < 0.01 * len(ours.calls)


def test_a_full_node_is_not_asked_first_for_each_call() -> None:
    for strategy in (LoadBased(seed=1), LoadBased(least=True, seed=1)):
        ours = sender(strategy, bed.is_full, OutlierEjection())
        ours.send_often(400, 5)
        assert ours.failed() == 0
        assert ours.attempts["bad"] < 0.01 * len(ours.calls)


def test_local_first_goes_elsewhere_if_only_this_node_fails() -> None:
    ours = sender(LocalFirst(), bed.fails_at_once, OFF, local_id="bad")
    ours.send_often(400, 5)
    assert ours.failed() < 0.01


def test_a_preferred_zone_whose_nodes_all_fail_is_left() -> None:
    ours = sender(PreferZone("near", LoadBased(seed=1)), bed.fails_at_once, OFF)
    ours.nodes["b"] = bed.fails_at_once
    ours.send_often(400, 5)
    assert ours.failed() < 0.25  # round robin: a half


@pytest.mark.parametrize("name", ["LoadBased", "LoadBased(least)", "RoundRobin", "ConsistentHash(max_load)"])
@pytest.mark.parametrize("bad", BAD)
def test_where_all_nodes_are_alike_calls_stay_balanced_and_nobody_is_left_out(name: str, bad: str) -> None:
    if bad == "hangs":
        pytest.skip("a node that answers nothing is left out, whatever the others do")
    ours = Sender(ALL[name](), {node_id: BAD[bad]() for node_id in "abcd"})
    ours.send_often(200, 20)
    tried = {node_id: ours.attempts[node_id] / ours.attempts.total() for node_id in "abcd"}
    assert min(tried.values()) > LEAST
    assert not ours.ejections


@pytest.mark.parametrize("part", [0.02, 0.1, 0.3, 0.5, 0.8])
@pytest.mark.parametrize("name", ["LoadBased", "LoadBased(least)", "RoundRobin", "Random"])
def test_a_part_that_fails_everywhere_makes_no_outliers(name: str, part: float) -> None:
    nodes = {node_id: bed.fails_in_part(part, seed) for seed, node_id in enumerate("abcd")}
    ours = Sender(ALL[name](), nodes)
    ours.send_often(100, 60)
    assert not ours.ejections
    assert min(ours.shares().values()) > LEAST


def test_an_outage_of_what_all_nodes_need_leaves_nobody_out() -> None:
    """It comes to all of them at once, and to the busiest first."""

    def node(now: float) -> bed.Answer:
        return bed.fails_at_once(now) if now % 7 < 1 else bed.well(now)

    for strategy in (RoundRobin(seed=1), Random(seed=1), LoadBased(seed=1)):
        ours = Sender(strategy, dict.fromkeys("abcd", node))
        ours.send_often(100, 60)
        assert not ours.ejections


@pytest.mark.parametrize("bad", ["fails at once", "is slow to fail", "its circuit is open", "hangs"])
@pytest.mark.parametrize("name", ["LoadBased", "LoadBased(least)", "RoundRobin", "ConsistentHash"])
@pytest.mark.parametrize("settings", [OFF, OutlierEjection()], ids=["never left out", "left out"])
def test_a_node_that_works_again_gets_its_share_again(name: str, bad: str, settings: OutlierEjection) -> None:
    ours = sender(ALL[name](), bed.until(1005.0, BAD[bad]()), settings)
    ours.send_often(50, 40)
    assert ours.shares(after=30)["bad"] > LEAST
    assert ours.failed(after=30) == 0


@pytest.mark.parametrize("name", [name for name in ALL if not name.startswith("Consistent")])
def test_senders_of_one_call_reach_all_nodes_alike(name: str) -> None:
    fresh: dict[str, Callable[[], RoutingStrategy]] = {
        "LoadBased": LoadBased,
        "LoadBased(least)": lambda: LoadBased(least=True),
        "Where(LoadBased)": lambda: Where(lambda node: True, then=LoadBased()),
        "PreferZone(LoadBased)": lambda: PreferZone("", LoadBased()),
        "LocalFirst(LoadBased)": LocalFirst,
        "RoundRobin": RoundRobin,
        "Random": Random,
        "Weighted": Weighted,
    }
    nodes = bed.infos("abc")
    counts = Counter(fresh[name]().select(Candidates(nodes), bed.Work(1)).node_id for _ in range(600))
    assert min(counts[node_id] for node_id in "abc") > 130  # for a fair draw once in a billion runs
