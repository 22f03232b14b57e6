"""Membership through a thousand histories of faults, seeded: what fails once fails always.

Real nodes in a simulated world (`simulation`, `simulated_broker`), the rules they must keep (`histories`), and what
befalls them (`mishaps`).
"""

import pytest
from histories import PROBE, Cluster
from mishaps import crash, history
from simulated_clocks import simulated

BATCH = 50
CROWD, LEASE = 120, 10.0


@pytest.mark.parametrize("start", range(0, 1000, BATCH))
def test_no_false_death_no_resurrection_and_one_view_in_the_end(start: int) -> None:
    """Through loss, repetition, crashes, restarts, stalls, cuts, twins and broker outages."""
    for seed in range(start, start + BATCH):
        history(seed)


def test_a_seed_tells_one_history() -> None:
    """What was found once can be looked at again."""
    assert history(11).log == history(11).log


def test_a_crowd_too_large_to_hear_of_everybody_stays_together() -> None:
    """Nodes hear of each other less than once a lease. Nothing happens, and nobody leaves."""
    crowd().check_calm()


def crowd() -> Cluster:
    """Many nodes with a lease so short that pings cannot keep it up. Raises `BrokenRuleError`."""
    cluster = Cluster(1, ttl=LEASE)
    with simulated(cluster):
        for number in range(CROWD):
            cluster.world.after(cluster.world.random.uniform(0, 2), cluster.spawn, f"n{number:02}")
        cluster.run(5 * LEASE)
        for process in cluster.alive():
            process.loop.kill()
    return cluster


def test_a_restarted_node_outlives_the_memory_of_its_former_life() -> None:
    """Its clock is an hour behind, the store is empty, and the others still know its former life: it is not fenced."""
    amnesia().check_calm()


def amnesia() -> Cluster:
    """A crash, a lost store, and a restart with an older clock, in one second."""
    cluster = Cluster(5, store=True)
    with simulated(cluster):
        first, *_ = [cluster.spawn(f"n{number}") for number in range(3)]
        cluster.run(30.0)
        crash(cluster, first)
        cluster.broker.store.clear()
        cluster.spawn(first.node_id, wall=-3600.0)
        cluster.run(80.0)
        for process in cluster.alive():
            process.loop.kill()
    return cluster


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
