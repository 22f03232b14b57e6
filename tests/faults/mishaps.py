"""What befalls a simulated cluster, and a thousand histories of it."""

import functools
from collections.abc import Callable

from histories import CALM, PROBE, Cluster, Process, Split
from simulated_calls import RESERVE, Order
from simulated_clocks import simulated
from simulation import Wire
from traffic import BUSY, TRAFFIC

RECOVERY = 3.0
"""Seconds after a trouble of the broker's by which all links are back, on top of the pauses between attempts."""
FEW = 3.0
"""Retries in reserve, so that a busy moment uses them up."""
WHOLE = 5.0
"""Seconds after a split by which views are whole; and a probe interval for each node that one side has lost."""


def crash(cluster: Cluster, process: Process) -> float:
    process.kill()
    return 0.0


def restart(cluster: Cluster, process: Process) -> float:
    """SIGKILL, and the same id again; the clock may be an hour behind by then."""
    chance = cluster.world.random
    delay = chance.choice([0.05, 0.2, 1.0, 5.0, 15.0])
    wall = chance.choice([0.0, 0.0, -3600.0])
    process.kill()
    cluster.world.after(delay, lambda: cluster.spawn(process.node_id, wall=process.loop.wall + wall))
    return delay


def leave(cluster: Cluster, process: Process) -> float:
    process.leave()
    return 1.0


def roll(cluster: Cluster, process: Process) -> float:
    """Leaves, and comes back with a new life."""
    process.leave()
    cluster.world.after(2.0, lambda: cluster.spawn(process.node_id, wall=process.loop.wall))
    return 2.0


def stall(cluster: Cluster, process: Process) -> float:
    """SIGSTOP, a suspended machine, a blocked loop."""
    duration = cluster.world.random.choice([0.5, 2.0, 4.0, 8.0, 15.0, 40.0])
    freeze_for(cluster, process, duration)
    return duration


def freeze_for(cluster: Cluster, process: Process, duration: float) -> None:
    process.loop.stop_now()
    process.mute_from()

    def go_on() -> None:
        process.loop.go_on()
        process.mute_until()

    cluster.world.after(duration, go_on)


def cut(cluster: Cluster, process: Process) -> float:
    duration = cluster.world.random.choice([0.1, 0.5, 2.0, 6.0, 15.0, 50.0])
    process.link.set_cut(True)
    process.mute_from()

    def heal() -> None:
        process.link.set_cut(False)
        _until_linked(cluster, process)

    cluster.world.after(duration, heal)
    return duration


def _until_linked(cluster: Cluster, process: Process) -> None:
    """It is heard again when its client has reconnected, and its node believes in it."""
    if process.link.is_up and process.mediator is not None and process.mediator.health == "healthy":
        cluster.world.after(0.1, process.mute_until)
    elif process.alive:
        cluster.world.after(0.1, _until_linked, cluster, process)


def half_open(cluster: Cluster, process: Process) -> float:
    duration = cluster.world.random.choice([0.5, 3.0, 5.5, 8.0, 15.0, 40.0])
    process.link.set_deaf(True)
    process.mute_from()

    def heal() -> None:
        process.link.set_deaf(False)
        _until_linked(cluster, process)

    cluster.world.after(duration, heal)
    return duration


def reset(cluster: Cluster, process: Process) -> float:
    """Its link is down and back within 50 ms, while requests come that must not run twice, too many at once."""
    chance, world = cluster.world.random, cluster.world
    burn, wait = chance.choice([(0.0, 0.03), (0.01, 0.0), (0.03, 0.02), (0.0, 0.15)])
    for _ in range(chance.choice([0, 12, 24])):
        world.after(chance.uniform(0.0, 0.2), _order, cluster, chance.choice([1.0, 8.0]), burn, wait)
    for _ in range(chance.choice([1, 1, 3])):
        world.after(chance.uniform(0.05, 0.15), reset_now, cluster, process)
    return 0.2


def reset_now(cluster: Cluster, process: Process) -> None:
    if process.alive:
        process.mute_from()
        process.link.reset()
        cluster.world.after(0.1, _until_linked, cluster, process)


def _order(cluster: Cluster, timeout: float, burn: float, wait: float) -> None:
    cluster.calls.send(Order, timeout, burn=burn, wait=wait)


def twin(cluster: Cluster, process: Process) -> float:
    """Another process with the same id, while this one lives."""
    cluster.spawn(process.node_id, wall=process.loop.wall + cluster.world.random.choice([0.0, -3600.0]))
    return 1.0


def freeze_broker(cluster: Cluster, _: Process) -> float:
    duration = cluster.world.random.choice([0.5, 3.0, 5.0, 10.0, 25.0])
    cluster.broker.freeze()
    cluster.world.after(duration, cluster.broker.thaw)
    cluster.broker_trouble(duration + RECOVERY)
    return duration


def restart_broker(cluster: Cluster, _: Process) -> float:
    """All links are down, and come back one by one to an empty broker."""
    chance = cluster.world.random
    duration = chance.choice([0.3, 1.5, 5.0, 30.0])
    cluster.reconnect = (0.05, chance.choice([0.5, 0.5, 3.5]))
    for process in cluster.alive():
        process.link.reconnect = cluster.reconnect
    cluster.broker.kill()
    cluster.world.after(duration, cluster.broker.start)
    cluster.broker_trouble(duration + cluster.reconnect[1] + RECOVERY)
    return duration


def split_broker(cluster: Cluster, _: Process) -> float:
    """Each half of the nodes finds nobody of the other half listening, while all links stay up."""
    chance = cluster.world.random
    duration = chance.choice([0.5, 1.5, 6.0, 6.0, 9.0, 25.0, 60.0])
    nodes = cluster.alive()
    chance.shuffle(nodes)
    cut = max(1, round(len(nodes) * chance.choice([0.2, 0.5, 0.5, 0.5])))
    for number, node in enumerate(nodes):
        node.side = node.link.side = int(number < cut)
    apart(cluster, duration)
    return duration


def apart(cluster: Cluster, duration: float) -> None:
    """Split the broker for so long. What had no other trouble is whole soon after."""
    split, world = Split(cluster), cluster.world
    cluster.splits.append(split)
    cluster.broker.part()

    def heal() -> None:
        split.until = world.now
        cluster.broker.heal()
        for node in cluster.alive():
            if cluster.has_store and node.side:  # its server is none any more
                reset_now(cluster, node)
        world.after(WHOLE + max(split.sizes.values()) * PROBE, check_whole)

    def check_whole() -> None:
        if split.was_all:
            cluster.check_whole()

    world.after(duration, heal)


def overhear(cluster: Cluster, _: Process) -> float:
    """A monitoring client listens to all subjects: the broker never says that nobody does."""
    duration = cluster.world.random.choice([3.0, 10.0, 30.0])
    cluster.broker.overheard = True
    cluster.world.after(duration, setattr, cluster.broker, "overheard", False)
    return duration


def flush_store(cluster: Cluster, _: Process) -> float:
    cluster.broker.store.clear()
    return 0.0


def join(cluster: Cluster, _: Process) -> float:
    cluster.spawn(f"late{len(cluster.processes)}", wall=cluster.world.random.choice([0.0, 3600.0]))
    return 1.0


def grow_busy(cluster: Cluster, process: Process) -> float:
    process.load = cluster.world.random.choice([0.0, 0.3, 0.6, 1.2])
    return 0.0


OF_A_NODE = (crash, restart, leave, roll, stall, stall, cut, cut, half_open, reset, reset, twin, join, grow_busy)
OF_THE_BROKER = (freeze_broker, restart_broker, flush_store, split_broker, split_broker, overhear)


def history(seed: int, *, faults: int = 6) -> Cluster:
    """Run one. Raises `BrokenRuleError`."""
    cluster = Cluster(seed)
    chance = cluster.world.random
    cluster.has_store = chance.random() < 0.4
    cluster.broker.wire = Wire(
        loss=chance.choice([0.0, 0.0, 0.005, 0.02, 0.05]),
        twice=chance.choice([0.0, 0.01, 0.1]),
        late=chance.choice([0.0, 0.0, 5.0, 30.0]),
        delay=chance.choice([0.0005, 0.005]),
        spread=chance.choice([0.001, 0.02]),
    )
    cluster.is_lossy = cluster.broker.wire.loss > 0 or cluster.broker.wire.late > 1.0  # a late twin is a sign of life
    cluster.has_queues = chance.random() < 0.1
    cluster.broker.prefers_own = chance.random() < 0.5
    cluster.limits = chance.choice([(512, 1024), (512, 1024), (8, 8), (2, 2), (1, 0)])
    traffic = chance.choice(TRAFFIC)
    cluster.reserve = chance.choice([RESERVE, FEW]) if traffic is BUSY else RESERVE
    with simulated(cluster):
        for number in range(chance.choice([3, 3, 3, 4, 4, 5, 6, 8, 12])):
            wall = chance.choice([0.0, 0.0, 0.0, 0.0, 3600.0, -3600.0])
            cluster.world.after(
                chance.choice([0.0, 0.5, 2.0]), functools.partial(cluster.spawn, f"n{number}", wall=wall)
            )
        cluster.run(10.0)
        busy_until = cluster.world.now
        for _ in range(chance.randint(1, faults)):
            traffic.begin(cluster)
            cluster.run(cluster.world.now + chance.choice([0.05, 0.5, 2.0, 6.0]))
            busy_until = max(busy_until, cluster.world.now + _strike(cluster, busy_until))
            if chance.random() < 0.5:
                cluster.run(max(cluster.world.now, busy_until))
        cluster.run(max(cluster.world.now, busy_until) + 1.0)
        cluster.broker.wire.loss = 0.0
        cluster.run(cluster.world.now + CALM)
        cluster.check_calm()
        for process in cluster.alive():
            process.kill()
    return cluster


def _strike(cluster: Cluster, busy_until: float) -> float:
    """One fault; returns for how long it lasts. A node, and the broker, has one trouble at a time."""
    chance = cluster.world.random
    free = [p for p in cluster.alive() if p.serving and not p.muted and not p.replaced]
    if len(free) < 2:
        return 0.0
    process = chance.choice(free)
    of_broker = chance.random() < 0.25
    if of_broker and (cluster.broker.frozen or cluster.broker.split or not cluster.broker.up):
        return 0.0
    fault: Callable[[Cluster, Process], float] = chance.choice(OF_THE_BROKER if of_broker else OF_A_NODE)
    cluster.struck_at = cluster.world.now
    cluster.note(f"--- {fault.__name__} {'' if of_broker else process.node_id}")
    duration = fault(cluster, process)
    cluster.log[-1] = (cluster.log[-1][0], f"{cluster.log[-1][1]} for {duration:g} s") if duration else cluster.log[-1]
    return duration
