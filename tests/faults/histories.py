"""Histories: a cluster of real nodes in a simulated world, what befalls it, and what must hold."""

import asyncio
import math
from collections import Counter

import msgspec
from simulated_broker import Broker
from simulated_calls import RESERVE, Calls
from simulated_process import PROBE, TTL, Process
from simulation import Wire, World

from catga.membership import Membership
from catga.node import LeftReason, NodeChangeEvent, NodeChangeType, NodeInfo, NodeState

CONFIRM, SETTLE = 1.0, 5.0
UNREACHABLE = 7.0
"""Seconds, less than eight of hearing."""
MASS = 10.0
"""Seconds for which nodes that are lost together are not taken for dead."""
DETECTION = 3 * PROBE + CONFIRM
"""Seconds that evidence of a death may be old when the death is announced."""
CALM = TTL + TTL / 4 + SETTLE + 10.0
"""Seconds after the last fault by which all views must be right."""


class BrokenRuleError(AssertionError):
    """What a history showed. The message starts with the rule's name."""


class Split:
    """The broker in two halves: from when to when, and who is on which."""

    def __init__(self, cluster: "Cluster") -> None:
        self.cluster = cluster
        self.since, self.until = cluster.world.now, math.inf
        self.is_alone = cluster.well_since <= self.since - SETTLE and not cluster.is_lossy
        self.sides = {process: process.side for process in cluster.alive()}
        self.sizes = Counter(process.side for process in cluster.alive() if process.serving)

    def excuses(self, observer: Process, process: Process, reason: LeftReason | None) -> bool:
        """Whether `observer` may take `process`, on the other side, for dead: not at once if it misses many, and the
        split is all that befell them."""
        now = self.cluster.world.now
        if self.until < now - DETECTION or self._side(observer) == self._side(process):
            return False
        missed, own = self.sizes[self._side(process)], self.sizes[self._side(observer)]
        is_mass = own >= 2 and missed >= 2 and 3 * missed > own + missed
        limit = UNREACHABLE if reason is not None and reason.value == "unreachable" else MASS
        return not is_mass or not self.was_all or min(now, self.until) - self.since >= limit

    @property
    def was_all(self) -> bool:
        """Whether nothing else befell the cluster, so far."""
        return self.is_alone and self.cluster.struck_at <= self.since

    def parted(self, newer: Process, others: list[Process]) -> bool:
        """Whether it came between a newer life of an id and the older one, before that was fenced."""
        joined = newer.joined_at
        came_between = joined is not None and joined <= self.since <= joined + DETECTION
        return came_between and any(self._side(other) != self._side(newer) for other in others)

    def _side(self, process: Process) -> int:
        return self.sides.get(process, process.side)


class Cluster:
    """The processes of one history, and the rules that it must keep."""

    def __init__(self, seed: int, *, store: bool = False, ttl: float = TTL) -> None:
        self.ttl = ttl
        self.world = World(seed)
        self.broker = Broker(self.world, Wire())
        self.has_store = store
        self.has_queues = False
        self.is_lossy = False
        self.limits = (512, 1024)
        self.reserve = RESERVE
        self.reconnect = (0.05, 0.5)
        self.processes: list[Process] = []
        self.calls = Calls(self)
        self.splits: list[Split] = []
        self.broker_well_since = 0.0
        self.struck_at = 0.0
        self.log: list[tuple[float, str]] = []
        self.failure: BrokenRuleError | None = None
        self.seed = seed
        self._left: dict[tuple[int, str], tuple[int, int]] = {}  # (view, node) → version
        self._buried: dict[tuple[str, int], float] = {}  # when anybody did it first
        self._returned: dict[tuple[str, int], int] = {}  # with which sequence it came back from that

    def note(self, text: str) -> None:
        self.log.append((self.world.now, text))

    def check(self, holds: bool, rule: str, text: str) -> None:
        if not holds and self.failure is None:
            story = "\n".join(f"{at:9.3f} {line}" for at, line in self.log[-80:])
            self.failure = BrokenRuleError(f"{rule}: seed {self.seed}, {self.world.now:.3f} s: {text}\n{story}")

    def spawn(self, node_id: str, *, wall: float = 0.0, handles: bool = True) -> Process:
        for other in self.processes:
            if other.node_id == node_id and other.alive:
                other.replaced = True
        process = Process(self, node_id, wall=wall, handles=handles)
        self.processes.append(process)
        return process

    def alive(self) -> list[Process]:
        return [process for process in self.processes if process.alive]

    @property
    def well_since(self) -> float:
        """Since when nothing has been wrong with anybody."""
        return max(self.broker_well_since, *(process.well_since for process in self.alive()))

    def broker_trouble(self, seconds: float) -> None:
        """The broker, or the links to it, are not well for so long from now on."""
        self.broker_well_since = max(self.broker_well_since, self.world.now + seconds)

    def serves(self, caller: Process, since: float) -> bool:
        """Whether the caller, two nodes that it reaches, and the broker have been well since then."""
        if self.broker_well_since > since or caller.well_since > since:
            return False
        apart = any(split.until > since for split in self.splits)
        well = [p for p in self.alive() if p.handles and p.well_since <= since]
        return len([p for p in well if not apart or p.side == caller.side]) >= 2

    def run(self, until: float) -> None:
        """Let time pass. Raises the first rule broken."""
        while self.world.now < until and self.failure is None:
            self.world.run(min(until, self.world.now + 5.0))
            for process in self.processes:
                for context in process.loop.errors:
                    self.check(False, "an error", str(context))
        if self.failure is not None:
            raise self.failure

    # -- rules that hold at every moment --------------------------------------------------------------

    def changed(self, membership: Membership, event: NodeChangeEvent) -> None:
        """A view changed."""
        node, observer = event.node, membership.me.node_id
        key = (id(membership), node.node_id)
        if event.type is not NodeChangeType.UPDATED:
            self.note(f"{observer}: {node.node_id}/{node.incarnation} {event.type.value} {event.reason or ''}")
        if event.type is NodeChangeType.JOINED:
            life = (node.node_id, node.incarnation)
            forgotten = self.world.now - self._buried.get(life, 0.0) > 1.9 * self.ttl
            fresh = node.version > self._left.get(key, (-1, -1)) or forgotten
            self.check(fresh, "resurrection", f"{observer} raised {node.node_id}/{node.version}")
            if life in self._buried:
                self._returned.setdefault(life, node.sequence)
        elif event.type is NodeChangeType.LEFT:
            self._left[key] = node.version
            if node.node_id != observer:
                self._judge_death(observer, event)

    def _judge_death(self, observer: str, event: NodeChangeEvent) -> None:
        """The first burial must be justified; the others follow it, late as it may reach them."""
        node, now = event.node, self.world.now
        life = (node.node_id, node.incarnation)
        if life in self._buried and node.sequence < self._returned.get(life, node.sequence + 1):
            return
        self._buried.setdefault(life, now)
        self._returned.pop(life, None)
        for process in self.alive():
            if process.node_id != node.node_id or not process.serving or process.replaced:
                continue
            if process.membership.me.incarnation != node.incarnation or self._is_outgrown(process):
                continue
            excused = process.was_mute(self._silence(event), now - DETECTION) or self._is_apart(process, event)
            excused = excused or self._is_slow_to_return(process)
            self.check(excused, "false death", f"{observer} buried {node.node_id}/{node.version}, {event.reason}")

    def _silence(self, event: NodeChangeEvent) -> float:
        """Seconds that a node must have been mute for this end."""
        assert event.reason is not None
        return {"crashed": 0.9 * CONFIRM, "unreachable": UNREACHABLE}.get(event.reason.value, self.ttl / 4)

    def _is_slow_to_return(self, process: Process) -> bool:
        """Whether it has no link since the broker was restarted or thawed, longer ago than the others wait for it."""
        link, broker = process.link, self.broker
        since = broker.up_since
        return not link.is_up and broker.down_at <= link.down_since <= since < self.world.now - SETTLE

    def _is_apart(self, process: Process, event: NodeChangeEvent) -> bool:
        """Whether it is, or was just now, beyond a split from who takes it for dead."""
        loop = asyncio.get_running_loop()
        observer = next(p for p in self.processes if p.loop is loop)
        return any(split.excuses(observer, process, event.reason) for split in self.splits)

    def _is_outgrown(self, process: Process) -> bool:
        """Whether its clock is behind a former life's, and it does not know yet."""
        former = (p for p in self.processes if p.node_id == process.node_id and p is not process and p.joined_at)
        return any(p.membership.me.incarnation > process.membership.me.incarnation for p in former)

    # -- rules that hold once calm has returned -------------------------------------------------------

    def check_calm(self) -> None:
        """All views are equal and true, every fold equals its view, and each id has one owner."""
        serving = [process for process in self.processes if process.serving]
        owners = {process.node_id: process for process in serving}
        for process in self.alive():
            self.check(process.joined_at is not None, "not joined", process.node_id)
        self.check(len(owners) == len(serving), "not fenced", f"{[p.membership.me for p in serving]}")
        for node_id in {process.node_id for process in self.alive()}:
            lives = sorted((p for p in self.alive() if p.node_id == node_id), key=lambda p: p.born)
            newest = max((p for p in self.processes if p.node_id == node_id), key=lambda p: p.born)
            wins = newest.serving or not newest.alive or newest.was_mute(CONFIRM, newest.born)
            outgrown = newest.loop.wall < lives[0].loop.wall or any(each.parted(newest, lives) for each in self.splits)
            self.check(
                wins or outgrown,
                "wrong one fenced",
                f"{[(p.born, p.membership.me) for p in lives]}",
            )
        self.check_views()
        for process in serving:
            nodes = process.membership.view.nodes()
            states = {node.node_id: node.state for node in nodes if node.state is not NodeState.ALIVE}
            self.check(not states, "still in doubt", f"{process.node_id}: {states}")
            for fold in process.folds:
                same = {i: _told(n) for i, n in fold.members.items()} == {n.node_id: _told(n) for n in nodes}
                self.check(same, "fold differs", f"{process.node_id}, pause {fold.pause}")
        if self.failure is not None:
            raise self.failure

    def check_views(self) -> None:
        """All views are equal and true."""
        serving = [process for process in self.processes if process.serving]
        expected = {process.node_id: process.membership.me.version for process in serving}
        for process in serving:
            seen = {node.node_id: node.version for node in process.membership.view.nodes()}
            self.check(seen == expected, "views differ", f"{process.node_id} sees {seen}, there are {expected}")

    def check_whole(self) -> None:
        """After a split, with no other trouble before or since: nobody is missing."""
        for process in self.alive():
            missing = {p.node_id for p in self.alive()} - {n.node_id for n in process.membership.view.nodes()}
            self.check(not missing, "not whole", f"{process.node_id} misses {missing}")


def _told(node: NodeInfo) -> NodeInfo:
    """What a watcher is told of: everything but the load and the time it was last seen."""
    return msgspec.structs.replace(node, load=0.0, last_seen=0.0)
