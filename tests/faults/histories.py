"""Histories: a cluster of real nodes in a simulated world, what befalls it, and what must hold."""

import asyncio
import contextlib
import logging
import random
from collections.abc import Iterator
from typing import Any
from unittest import mock

import msgspec
from simulated_broker import Broker, Link
from simulated_store import StoreDiscovery
from simulation import Loop, Wire, World

import catga.cluster.node
from catga import DistributedMediator, Mediator, add_cluster
from catga.abc import Backend, NodeDiscovery
from catga.backends.nats import NatsNodeDiscovery, NatsTransport
from catga.errors import CatgaError
from catga.membership import Membership, Watcher
from catga.node import LeftReason, NodeChangeEvent, NodeChangeType, NodeInfo, NodeState

TTL, PROBE, CONFIRM, SETTLE = 20.0, 1.0, 1.0, 5.0
DETECTION = 3 * PROBE + CONFIRM
"""Seconds that evidence of a death may be old when the death is announced."""
CALM = TTL + TTL / 4 + SETTLE + 10.0
"""Seconds after the last fault by which all views must be right."""


class BrokenRuleError(AssertionError):
    """What a history showed. The message starts with the rule's name."""


class Process:
    """One life of a node: a loop, a link, and the mediator; started again if it cannot join."""

    def __init__(self, cluster: "Cluster", node_id: str, *, wall: float = 0.0) -> None:
        self.cluster = cluster
        self.node_id = node_id
        world = cluster.world
        self.loop = Loop(world, world.random.getrandbits(48))
        self.loop.wall = wall
        self.link = Link(cluster.broker, self.loop, cluster.reconnect)
        self.born = world.now
        self.died: float | None = None
        self.leaving = False
        self.replaced = False  # another process took its id
        self.joined_at: float | None = None
        self.mediator: DistributedMediator | None = None
        self.membership: Membership
        self.folds: list[Fold] = []
        self.mute: list[tuple[float, float]] = []  # when it could not be heard, through a fault of its own
        self.muted = 0
        self.mute_since = 0.0
        self.load = 0.0
        self.loop.create_task(self._main())

    @property
    def alive(self) -> bool:
        return self.died is None

    @property
    def serving(self) -> bool:
        """Joined, and neither leaving nor fenced."""
        return self.alive and self.joined_at is not None and not self.leaving and not self.membership.fenced

    def mute_from(self) -> None:
        if self.muted == 0:
            self.mute_since = self.cluster.world.now
        self.muted += 1

    def mute_until(self) -> None:
        self.muted -= 1
        if self.muted == 0:
            self.mute.append((self.mute_since, self.cluster.world.now))

    def was_mute(self, seconds: float, since: float) -> bool:
        """Whether it could not be heard for so long, in one piece that lasted until after `since`."""
        mute = [*self.mute, (self.mute_since, self.cluster.world.now)] if self.muted else self.mute
        return any(b >= since and b - a >= seconds for a, b in mute)

    def kill(self) -> None:
        self.died = self.cluster.world.now
        self.loop.kill()
        self.link.hang_up()

    def leave(self) -> None:
        if not self.leaving:
            self.leaving = True
            self.loop.call_soon(lambda: self.loop.create_task(self._leave()))

    async def _leave(self) -> None:
        if self.mediator is not None and self.joined_at is not None:
            await self.mediator.stop()
        self.kill()

    async def _main(self) -> None:
        while not self.leaving:
            mediator = self._build()
            try:
                await mediator.start()
            except CatgaError:
                self.link.hang_up()
                await asyncio.sleep(1.0)
                self.link = Link(self.cluster.broker, self.loop, self.cluster.reconnect)
                continue
            self.mediator, self.membership = mediator, mediator._joined().membership
            self.joined_at = self.cluster.world.now
            for pause in (0.0, 1.5 if self.cluster.ttl == TTL else 0.05):
                fold = Fold(self, mediator.watch(), pause)
                self.folds.append(fold)
                self.loop.create_task(fold.read())
            return

    def _build(self) -> DistributedMediator:
        """As `add_cluster` makes it, but on the simulated wire."""
        made = add_cluster(
            Mediator(),
            "memory://simulated",
            node_id=self.node_id,
            ttl=self.cluster.ttl,
            heartbeat_interval=self.cluster.ttl / 4,
            probe_interval=PROBE,
            connect_timeout=10.0,
            drain_timeout=0.2,
            load=lambda: self.load,
            prefix="c",
        )
        return DistributedMediator(Mediator(), made._options, self._backend())

    def _backend(self) -> Backend:
        link: Any = self.link
        store = self.cluster.has_store
        discovery: NodeDiscovery = (
            StoreDiscovery(link, "c", self.cluster.ttl) if store else NatsNodeDiscovery(link, "c")
        )
        return Backend(discovery, NatsTransport(link, "c"))


class Fold:
    """A watcher's events, folded; a slow one reads with pauses."""

    def __init__(self, process: Process, watcher: Watcher, pause: float) -> None:
        self.process, self.watcher, self.pause = process, watcher, pause
        self.members: dict[str, NodeInfo] = {}
        self.version = 0

    async def read(self) -> None:
        async for event in self.watcher:
            self._take(event)
            if self.pause:
                await asyncio.sleep(self.process.loop.random.uniform(0, 2 * self.pause))

    def _take(self, event: NodeChangeEvent) -> None:
        node_id, check = event.node.node_id, self.process.cluster.check
        known = node_id in self.members
        check(known == (event.type is not NodeChangeType.JOINED), "reported twice", f"{event} known={known}")
        check(event.version >= self.version, "out of order", f"{event} after {self.version}")
        self.version = event.version
        if event.type is NodeChangeType.LEFT:
            del self.members[node_id]
        else:
            self.members[node_id] = event.node


class Cluster:
    """The processes of one history, and the rules that it must keep."""

    def __init__(self, seed: int, *, store: bool = False, ttl: float = TTL) -> None:
        self.ttl = ttl
        self.world = World(seed)
        self.broker = Broker(self.world, Wire())
        self.has_store = store
        self.reconnect = (0.05, 0.5)
        self.processes: list[Process] = []
        self.log: list[tuple[float, str]] = []
        self.failure: BrokenRuleError | None = None
        self.seed = seed
        self._left: dict[tuple[int, str], tuple[int, int]] = {}  # (view, node) → incarnation, sequence
        self._buried: dict[tuple[str, int], float] = {}  # when anybody did it first

    def note(self, text: str) -> None:
        self.log.append((self.world.now, text))

    def check(self, holds: bool, rule: str, text: str) -> None:
        if not holds and self.failure is None:
            story = "\n".join(f"{at:9.3f} {line}" for at, line in self.log[-80:])
            self.failure = BrokenRuleError(f"{rule}: seed {self.seed}, {self.world.now:.3f} s: {text}\n{story}")

    def spawn(self, node_id: str, *, wall: float = 0.0) -> Process:
        for other in self.processes:
            if other.node_id == node_id and other.alive:
                other.replaced = True
        process = Process(self, node_id, wall=wall)
        self.processes.append(process)
        return process

    def alive(self) -> list[Process]:
        return [process for process in self.processes if process.alive]

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
            forgotten = self.world.now - self._buried.get((node.node_id, node.incarnation), 0.0) > 1.9 * self.ttl
            fresh = node.version > self._left.get(key, (-1, -1)) or forgotten
            self.check(fresh, "resurrection", f"{observer} raised {node.node_id}/{node.incarnation}")
        elif event.type is NodeChangeType.LEFT:
            self._left[key] = node.version
            if node.node_id != observer:
                self._judge_death(observer, event)

    def _judge_death(self, observer: str, event: NodeChangeEvent) -> None:
        """The first burial must be justified; the others follow it, late as it may reach them."""
        node = event.node
        if (node.node_id, node.incarnation) in self._buried:
            return
        self._buried[node.node_id, node.incarnation] = self.world.now
        for process in self.alive():
            if process.node_id != node.node_id or not process.serving or process.replaced:
                continue
            if process.membership.me.incarnation != node.incarnation or self._is_outgrown(process):
                continue
            silence = CONFIRM if event.reason is LeftReason.CRASHED else self.ttl / 4
            excused = process.was_mute(silence, self.world.now - DETECTION)
            self.check(excused, "false death", f"{observer} buried {node.node_id}/{node.incarnation}, {event.reason}")

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
            self.check(
                wins or newest.loop.wall < lives[0].loop.wall,
                "wrong one fenced",
                f"{[(p.born, p.membership.me) for p in lives]}",
            )
        expected = {node_id: process.membership.me.version for node_id, process in owners.items()}
        for process in serving:
            nodes = process.membership.view.nodes()
            seen = {node.node_id: node.version for node in nodes}
            self.check(seen == expected, "views differ", f"{process.node_id} sees {seen}, there are {expected}")
            states = {node.node_id: node.state for node in nodes if node.state is not NodeState.ALIVE}
            self.check(not states, "still in doubt", f"{process.node_id}: {states}")
            for fold in process.folds:
                same = {i: _told(n) for i, n in fold.members.items()} == {n.node_id: _told(n) for n in nodes}
                self.check(same, "fold differs", f"{process.node_id}, pause {fold.pause}")
        if self.failure is not None:
            raise self.failure


def _told(node: NodeInfo) -> NodeInfo:
    """What a watcher is told of: everything but the load and the time it was last seen."""
    return msgspec.structs.replace(node, load=0.0, last_seen=0.0)


@contextlib.contextmanager
def simulated(cluster: Cluster) -> Iterator[None]:
    """Let nodes take their clocks and their chance from the loop they run in, and report to `cluster`."""

    class Watched(Membership):
        def __init__(self, *args: Any, **options: Any) -> None:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, Loop)
            super().__init__(*args, **options, clock=loop.time, random=loop.random)

        def _changed(self, event: NodeChangeEvent) -> None:
            cluster.changed(self, event)
            super()._changed(event)

    class Clock:
        @staticmethod
        def time_ns() -> int:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, Loop)
            return loop.time_ns()

    logging.disable(logging.CRITICAL)
    state = random.getstate()
    random.seed(cluster.seed)  # what is spread by the module's own generator
    try:
        with (
            mock.patch.object(catga.cluster.node, "Membership", Watched),
            mock.patch.object(catga.cluster.node, "time", Clock),
        ):
            yield
    finally:
        random.setstate(state)
        logging.disable(logging.NOTSET)
