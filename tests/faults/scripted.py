"""Histories that are written down, for rules that chance meets too seldom."""

import functools
import math
from typing import Any

from histories import MASS, PROBE, SETTLE, TTL, Cluster, Process
from mishaps import WHOLE, apart, crash, freeze_for, reset_now
from simulated_calls import Job, Order, QuickOrder, QuickWork, Work
from simulated_clocks import simulated

from catga.errors import Execution
from catga.result import Success

MOST_RUNS = 1.15
"""Executions for each call that was sent once, at most, on nodes that are only busy."""

TURN = 0.1
"""Seconds for which a node that computes hears nothing, at most, while each of its handlers computes for 0.02 s."""
CROWD, LEASE = 120, 10.0
BUSY = 3.0
UNHEARD = 15.0
"""Seconds until a death is known of which the broker does not tell."""


def started(cluster: Cluster, nodes: int, *, callers: int = 0) -> list[Process]:
    """Nodes that handle requests, behind callers that do not; all have joined."""
    made = [cluster.spawn(f"n{number}", handles=number >= callers) for number in range(nodes + callers)]
    cluster.run(10.0)
    return made


def ended(cluster: Cluster) -> None:
    """Let all processes end."""
    for process in cluster.alive():
        process.kill()


def rush(kind: type[Job], *, reserve: float = 10.0) -> Cluster:
    """One caller, two workers, and at one moment more computing than both can do for a while.

    Raises `BrokenRuleError` unless every request succeeds, and few run twice.
    """
    cluster = Cluster(7)
    cluster.reserve = reserve
    with simulated(cluster):
        caller, *workers = started(cluster, 2, callers=1)
        for _ in range(160):
            cluster.calls.send_from(caller, kind, 30.0, burn=0.02)
        cluster.run(45.0)
        sent = cluster.calls.sent.values()
        failed = [str(each.result) for each in sent if type(each.result) is not Success]
        cluster.check(not failed, "busy taken for dead", f"{len(failed)} of {len(sent)} failed: {failed[:3]}")
        runs = sum(len(each.runs) for each in sent) / len(sent)
        longest = max(process.loop.longest_turn for process in workers)
        cluster.check(longest <= TURN, "busy taken for dead", f"{longest:.3f} s without a turn of the loop")
        cluster.check(runs <= MOST_RUNS, "busy taken for dead", f"{runs:.2f} executions for each call")
        cluster.run(cluster.world.now)
        ended(cluster)
    return cluster


def overload(places: int, *, burn: float = 0.0, wait: float = 0.0) -> Cluster:
    """One worker has three times as many requests as it can do, for 24 s; each has four seconds.

    Raises `BrokenRuleError` if it does much less than it can, or if it is unknown whether a request ran.
    """
    cluster = Cluster(3)
    cluster.limits = (places, 1024)
    seconds, rate = 24, 1 / burn if burn else places / wait
    with simulated(cluster):
        caller, _ = started(cluster, 1, callers=1)
        for number in range(int(3 * rate * seconds)):
            at = 10.0 + number / (3 * rate)
            cluster.world.at(at, functools.partial(cluster.calls.send_from, caller, Work, 4.0, burn=burn, wait=wait))
        cluster.run(10.0 + seconds + 10.0)
        results = [each.result for each in cluster.calls.sent.values()]
        well = sum(type(result) is Success for result in results)
        cluster.check(well >= 0.9 * rate * seconds, "busy with what is too late", f"{well} of {rate * seconds:g}")
        doubted = [result for result in results if getattr(result, "error", None) and _is_doubted(result)]
        some = 2 + 0.02 * len(results)  # until it is known how long they run
        cluster.check(len(doubted) <= some, "not known whether it ran", f"{len(doubted)}: {doubted[:2]}")
        cluster.run(cluster.world.now)
        ended(cluster)
    return cluster


def _is_doubted(result: Any) -> bool:
    return bool(result.error.execution is Execution.MAYBE)


def resets(seed: int) -> Cluster:
    """The links of small nodes are reset again and again, under requests that must not run twice.

    Raises `BrokenRuleError`.
    """
    cluster = Cluster(seed)
    chance, world = cluster.world.random, cluster.world
    cluster.limits = (1, 0)
    with simulated(cluster):
        caller, *workers = started(cluster, 3, callers=1)
        for number in range(12):
            begin, process = 10.0 + number, workers[number % len(workers)]
            for _ in range(20):
                burn, wait = chance.choice([(0.0, 0.05), (0.02, 0.0), (0.02, 0.05)])
                send = functools.partial(cluster.calls.send_from, caller, Order, 3.0, burn=burn, wait=wait)
                world.at(begin + chance.uniform(0.0, 0.3), send)
            world.at(begin + chance.uniform(0.05, 0.2), reset_now, cluster, process)
        cluster.run(30.0)
        ended(cluster)
    return cluster


def crash_under_load(*, reserve: float = 10.0) -> Cluster:
    """A node is killed with many requests in flight that may run twice. Raises `BrokenRuleError` unless all succeed."""
    cluster = Cluster(8)
    cluster.reserve = reserve
    with simulated(cluster):
        caller, victim, *_ = started(cluster, 3, callers=1)
        for _ in range(150):
            cluster.calls.send_from(caller, Work, 15.0, wait=2.0)
        cluster.run(11.0)
        victim.kill()
        cluster.run(30.0)
        failed = [str(each) for each in cluster.calls.sent.values() if type(each.result) is not Success]
        cluster.check(not failed, "lost with a node", f"{len(failed)} of 150 failed: {failed[:3]}")
        cluster.run(cluster.world.now)
        ended(cluster)
    return cluster


def freeze_under_load(*, timeout: float = 15.0, freeze: float = 40.0, reserve: float = 3.0) -> Cluster:
    """A node is stopped with many requests in flight, and more come.

    Raises `BrokenRuleError` if one runs late, or fails though it had time.
    """
    cluster = Cluster(12)
    cluster.reserve = reserve
    with simulated(cluster):
        caller, victim, *_ = started(cluster, 3, callers=1)
        for number in range(60):
            kind = (Work, QuickWork, Order, QuickOrder)[number % 4]
            cluster.world.after(number * 0.01, cluster.calls.send_from, caller, kind, timeout)
        cluster.world.after(0.2, freeze_for, cluster, victim, freeze)
        cluster.run(10.0 + freeze + 20.0)
        ended(cluster)
    return cluster


def crash_overheard() -> Cluster:
    """A node is killed while somebody listens to all subjects. Raises `BrokenRuleError` if that is not known soon."""
    cluster = Cluster(9)
    with simulated(cluster):
        victim, *others = started(cluster, 5)
        cluster.broker.overheard = True
        cluster.run(30.0)
        victim.kill()
        cluster.run(30.0 + UNHEARD)
        late = [p.node_id for p in others if p.membership.view.get(victim.node_id) is not None]
        cluster.check(not late, "death unnoticed", f"by {late}, {UNHEARD:g} s after the crash")
        cluster.run(cluster.world.now)
        ended(cluster)
    return cluster


def crashes_overheard() -> Cluster:
    """The same for two of five at one time. Raises `BrokenRuleError` if anybody learns it by its lease only."""
    cluster = Cluster(1, ttl=120.0)
    with simulated(cluster):
        *victims, third, fourth, fifth = started(cluster, 5)
        cluster.broker.overheard = True
        cluster.run(60.0)
        for victim in victims:
            victim.kill()
        cluster.run(60.0 + UNHEARD + MASS + SETTLE)
        left = {victim.node_id for victim in victims}
        for process in (third, fourth, fifth):
            known = {node.node_id for node in process.membership.view.nodes()}
            cluster.check(not left & known, "death unnoticed", f"{process.node_id} still knows {left & known}")
        cluster.run(cluster.world.now)
        ended(cluster)
    return cluster


def out_of_reach_of_one() -> Cluster:
    """One pair of an idle crowd does not reach each other, and somebody listens to all subjects. Then one of the two is
    busy for a while. Raises `BrokenRuleError` if it is taken for dead."""
    cluster = Cluster(0, ttl=120.0)
    broker, sender = cluster.broker, [None]
    publish, deliver = broker.publish, broker._deliver
    with simulated(cluster):
        one, *_, other = started(cluster, 30)
        pair = {one.link, other.link}

        def from_somebody(session: Any, *message: Any) -> None:
            sender[0] = session.link
            publish(session, *message)

        def unless_between_the_two(session: Any, *message: Any) -> None:
            if {session.link, sender[0]} != pair or cluster.world.now < 60.0:
                deliver(session, *message)

        broker.publish, broker._deliver = from_somebody, unless_between_the_two  # type: ignore[method-assign]
        broker.overheard = True
        cluster.world.at(80.0, lambda: other.loop.call_soon(other.loop.burn, BUSY))
        cluster.run(80.0 + 2 * BUSY)
        ended(cluster)
    return cluster


def split(duration: float, *, ttl: float = TTL) -> Cluster:
    """Two nodes on each side of a split, with requests all the while.

    Raises `BrokenRuleError` if a short one is taken for deaths, if a request is lost or runs twice that one side could
    serve alone, or if it takes long until all are one again.
    """
    cluster = Cluster(10, ttl=ttl)
    cluster.broker.prefers_own = True
    world = cluster.world
    with simulated(cluster):
        nodes = started(cluster, 4)
        together = _two_together(nodes)
        for node in nodes:
            node.side = node.link.side = int(node.node_id not in together)
        cluster.calls.send_from(nodes[0], Order, 15.0, wait=10.0)
        for moment in range(int(duration) + 12):
            world.at(10.0 + moment, cluster.calls.send_from, nodes[moment % 4], Work, 10.0)
        world.at(12.0, apart, cluster, duration)
        cluster.run(12.0 + duration + WHOLE + 2 * PROBE)
        cluster.check_whole()
        cluster.run(world.now + 15.0)
        lost = [str(each) for each in cluster.calls.sent.values() if type(each.result) is not Success]
        cluster.check(not lost, "lost in a split", f"{lost[:3]}")
        cluster.run(world.now)
        ended(cluster)
    return cluster


def _two_together(nodes: list[Process]) -> list[str]:
    """The first node, and the one that its first request goes to, or the second: round robin begins anywhere."""
    first = nodes[0].mediator
    assert first is not None
    chosen = first.explain(Order(0)).choice
    ids = [node.node_id for node in nodes]
    return [ids[0], chosen if chosen != ids[0] else ids[1]]


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


def amnesia(overheard: float = math.inf) -> Cluster:
    """A crash, a lost store, and a restart with an older clock, in one second.

    Args:
        overheard: seconds after that at which somebody begins to listen to everything.
    """
    cluster = Cluster(5, store=True)
    with simulated(cluster):
        first, *_ = [cluster.spawn(f"n{number}") for number in range(3)]
        cluster.run(30.0)
        crash(cluster, first)
        cluster.broker.store.clear()
        cluster.spawn(first.node_id, wall=-3600.0)
        if overheard < math.inf:
            cluster.world.after(overheard, setattr, cluster.broker, "overheard", True)
        cluster.run(80.0)
        for process in cluster.alive():
            process.loop.kill()
    return cluster


def thaw(seed: int) -> Cluster:
    """The broker stands still until some nodes give up their connections, and these take their time to come back.

    Raises `BrokenRuleError` if the others take them for dead.
    """
    cluster = Cluster(seed)
    with simulated(cluster):
        started(cluster, 3)
        for process in cluster.alive():
            process.link.reconnect = (0.05, 2.5)
        cluster.broker.freeze()
        cluster.world.after(5.0, cluster.broker.thaw)
        cluster.run(40.0)
        ended(cluster)
    return cluster
