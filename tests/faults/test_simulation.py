"""Nodes and their requests through a thousand histories of faults, seeded: what fails once fails always.

Real nodes in a simulated world (`simulation`, `simulated_broker`), the rules they must keep (`histories`,
`simulated_calls`), what they do (`traffic`), and what befalls them (`mishaps`, `scripted`).
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from histories import PROBE, Cluster
from mishaps import crash, history
from scripted import (
    amnesia,
    crash_overheard,
    crash_under_load,
    crashes_overheard,
    crowd,
    freeze_under_load,
    out_of_reach_of_one,
    overload,
    resets,
    rush,
    split,
    thaw,
)
from simulated_calls import Job, QuickWork, Work
from simulated_clocks import simulated

HERE = Path(__file__).parent
TELL = """
from mishaps import history

for seed in (11, 13, 14, 183, 218):
    cluster = history(seed)
    for line in [*cluster.log, *((each, each.ended, each.result) for each in cluster.calls.sent.values())]:
        print(*line)
"""
BATCH = 50
BATCHES = [pytest.param(start, marks=[pytest.mark.long] if start >= 100 else []) for start in range(0, 1000, BATCH)]


@pytest.mark.parametrize("start", BATCHES)
def test_no_false_death_nothing_runs_twice_and_one_view_in_the_end(start: int) -> None:
    """Through loss, repetition, crashes, restarts, stalls, cuts, resets, twins, splits, busy nodes, broker outages."""
    for seed in range(start, start + BATCH):
        history(seed)


def test_a_seed_tells_one_history() -> None:
    """What was found once can be looked at again, by a process that orders its sets in another way."""
    told = story(hashing=1)
    assert "joined" in told
    assert told == story(hashing=2)


def story(hashing: int) -> str:
    """What happened to the members, and to each request."""
    process = [sys.executable, "-c", TELL]
    environment = {**os.environ, "PYTHONHASHSEED": str(hashing)}
    return subprocess.run(process, env=environment, cwd=HERE, check=True, stdout=subprocess.PIPE, text=True).stdout


@pytest.mark.long
def test_a_crowd_too_large_to_hear_of_everybody_stays_together() -> None:
    """Nodes hear of each other less than once a lease. Nothing happens, and nobody leaves."""
    crowd().check_calm()


def test_a_restarted_node_outlives_the_memory_of_its_former_life() -> None:
    """Its clock is an hour behind, the store is empty, and the others still know its former life: it is not fenced."""
    amnesia().check_calm()


@pytest.mark.parametrize("overheard", [0.2, 0.4, 0.6, 0.8, 1.2, 2.0])
def test_a_listener_to_everything_makes_no_former_life_look_alive(overheard: float) -> None:
    """From when on is chance: that the broker told the truth a moment ago says nothing of now."""
    amnesia(overheard).check_calm()


@pytest.mark.parametrize("seed", range(20))
def test_those_who_come_back_late_from_a_thaw_are_waited_for(seed: int) -> None:
    """Who was deaf begins to judge anew."""
    thaw(seed)


def test_reports_that_are_read_late_are_no_death() -> None:
    """A node's link is reset three times within 50 ms, while handlers hold the loop of the one that hears of it."""
    history(774)


def test_a_crash_is_known_to_all_within_three_probes() -> None:
    """The broker tells, a second report confirms, the first to know tells the others."""
    cluster = Cluster(2)
    with simulated(cluster):
        first, *others = [cluster.spawn(f"n{number}") for number in range(3)]
        cluster.run(30.0)
        crash(cluster, first)
        cluster.run(cluster.world.now + 3 * PROBE)
        assert all(first.node_id not in {n.node_id for n in p.membership.view.nodes()} for p in others)
        for process in others:
            process.kill()


def test_tombstones_are_forgotten_by_all() -> None:
    """Views are passed round; the dead in them are not passed round for ever."""
    cluster = Cluster(3)
    with simulated(cluster):
        first, *others = [cluster.spawn(f"n{number}") for number in range(4)]
        cluster.run(30.0)
        crash(cluster, first)
        cluster.run(90.0)
        for process in others:
            gone = [end for end in process.membership.view.observations() if not hasattr(end, "node")]
            assert not gone
            process.kill()


def test_the_news_of_an_outage_is_no_news() -> None:
    """The broker is away for half a minute: nobody has joined, nobody has left."""
    cluster = Cluster(4)
    with simulated(cluster):
        for number in range(5):
            cluster.spawn(f"n{number}")
        cluster.run(30.0)
        members = len(cluster.log)
        cluster.broker.kill()
        cluster.run(60.0)
        cluster.broker.start()
        cluster.run(90.0)
        assert cluster.log[members:] == []
        for process in cluster.alive():
            process.kill()


@pytest.mark.parametrize("kind", [Work, QuickWork])
def test_busy_nodes_are_not_taken_for_dead(kind: type[Job]) -> None:
    """Two healthy workers, and more computing than they can do for a while: all requests succeed, few run twice."""
    rush(kind)


@pytest.mark.parametrize("seed", range(20))
def test_a_request_that_a_full_node_refused_does_not_run_there_later(seed: int) -> None:
    """Its link is reset, the refusal and the repeat pass each other: it ran once, and a "no" is true."""
    resets(seed)


def test_what_was_in_flight_at_a_killed_node_runs_elsewhere_free_of_charge() -> None:
    """More requests than the budget has retries."""
    crash_under_load()


def test_what_was_in_flight_at_a_frozen_node_runs_elsewhere_free_of_charge() -> None:
    """Two others find it silent."""
    freeze_under_load()


def test_a_frozen_node_runs_nothing_whose_caller_gave_up() -> None:
    """Requests of one second, a freeze of nine."""
    freeze_under_load(timeout=1.0, freeze=9.0)


def test_a_crash_is_known_in_15_seconds_beside_a_listener_to_everything() -> None:
    """The broker never says that nobody listens: two other members do not reach the node either."""
    crash_overheard()


@pytest.mark.parametrize(
    ("places", "work"),
    [
        (4, {"wait": 1.0}),
        (2, {"wait": 1.9}),
        (2, {"wait": 2.5}),
        (16, {"wait": 0.2}),
        (1, {"wait": 0.1}),
        (512, {"burn": 0.02}),
        (512, {"burn": 0.3}),
        (512, {"burn": 1.0}),
    ],
    ids=str,
)
def test_a_full_node_runs_what_can_end_in_time(places: int, work: dict[str, float]) -> None:
    """Else it would run nothing but requests whose time is over before they end."""
    overload(places, **work)


def test_two_crashes_of_five_are_known_to_all_beside_a_listener_to_everything() -> None:
    """Who has buried them already is not waited for."""
    crashes_overheard()


def test_who_is_out_of_reach_of_one_member_is_not_dead_though_busy() -> None:
    """Members of an idle crowd have not heard of each other for long: that is no sign of a death."""
    out_of_reach_of_one()


@pytest.mark.parametrize("duration", [1.0, 6.0])
def test_a_short_split_is_nobodys_death_and_loses_no_request(duration: float) -> None:
    """Two nodes on each side, as with a leaf node; one call that takes longer than the split."""
    split(duration)


def test_after_a_minute_apart_both_sides_find_each_other_at_once() -> None:
    """Longer than the others' memory of the dead."""
    split(60.0, ttl=10.0)
