"""Membership through a thousand histories of faults, seeded: what fails once fails always.

Real nodes on a simulated wire (`simulation`), with their faults and the rules they must keep (`histories`).
"""

import pytest
from histories import PROBE, Cluster, crash, history, simulated

BATCH = 50


@pytest.mark.parametrize("start", range(0, 1000, BATCH))
def test_no_false_death_no_resurrection_and_one_view_in_the_end(start: int) -> None:
    """Through loss, repetition, crashes, restarts, stalls, cuts, twins and broker outages."""
    for seed in range(start, start + BATCH):
        history(seed)


def test_a_seed_tells_one_history() -> None:
    """What was found once can be looked at again."""
    assert history(11).log == history(11).log


def test_a_crowd_too_large_to_hear_of_everybody_stays_together() -> None:
    """Each of 100 nodes hears of another once in six leases. Nothing happens, and nobody leaves."""
    crowd().check_calm()


def crowd() -> Cluster:
    """A hundred nodes with a lease so short that pings cannot keep it up. Raises `BrokenRuleError`."""
    cluster = Cluster(1, ttl=8.0)
    with simulated(cluster):
        for number in range(100):
            cluster.world.after(cluster.world.random.uniform(0, 2), cluster.spawn, f"n{number:02}")
        cluster.run(100.0)
        for process in cluster.alive():
            process.kill()
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
