"""One life of a node in a simulated world, and what its watchers were told."""

import asyncio
import math
from typing import TYPE_CHECKING, Any

from simulated_link import Link
from simulated_store import StoreDiscovery
from simulation import Loop

from catga import DistributedMediator, Mediator, add_cluster
from catga.abc import Backend, NodeDiscovery
from catga.backends.nats import NatsNodeDiscovery, NatsTransport
from catga.errors import CatgaError
from catga.membership import Membership, Watcher
from catga.node import NodeChangeEvent, NodeChangeType, NodeInfo
from catga.routing import Queue

if TYPE_CHECKING:
    from histories import Cluster

TTL, PROBE = 20.0, 1.0


class Process:
    """One life of a node: a loop, a link, and the mediator; started again if it cannot join."""

    def __init__(self, cluster: "Cluster", node_id: str, *, wall: float = 0.0, handles: bool = True) -> None:
        self.cluster = cluster
        self.node_id = node_id
        self.handles = handles
        world = cluster.world
        self.loop = Loop(world, world.random.getrandbits(48))
        self.loop.wall = wall
        self.side = world.random.randrange(2)  # of the broker, should it be split
        self.link = Link(cluster.broker, self.loop, cluster.reconnect, self.side)
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

    @property
    def well_since(self) -> float:
        """Since when nothing has been wrong with it."""
        if not self.serving or self.muted or self.replaced:
            return math.inf
        return max(self.joined_at or 0.0, self.mute[-1][1] if self.mute else 0.0)

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
                self.link = Link(self.cluster.broker, self.loop, self.cluster.reconnect, self.side)
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
        concurrency, queue = self.cluster.limits
        made = add_cluster(
            self.cluster.calls.handlers(self) if self.handles else Mediator(),
            "memory://simulated",
            node_id=self.node_id,
            ttl=self.cluster.ttl,
            heartbeat_interval=self.cluster.ttl / 4,
            probe_interval=PROBE,
            connect_timeout=10.0,
            drain_timeout=0.2,
            max_concurrency=concurrency,
            max_queue=queue,
            load=lambda: self.load,
            routing=Queue() if self.cluster.has_queues else None,
            prefix="c",
        )
        made._backend = self._backend()
        return made

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
