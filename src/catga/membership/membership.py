"""`Membership`: the view kept true by discovery and probes. The only place where the rules meet I/O."""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import Protocol

import msgspec

from catga.abc import Departure, NodeDiscovery, Observation, Sighting
from catga.errors import ClusterError
from catga.membership.chores import Chores
from catga.membership.hearing import HearingClock
from catga.membership.probe import MAX_EXTRA, Prober
from catga.membership.settings import MembershipSettings
from catga.membership.view import View
from catga.membership.watchers import Watcher
from catga.node import NEWEST, LeftReason, NodeChangeEvent, NodeChangeType, NodeInfo, NodeState

logger = logging.getLogger("catga.membership")

RIVAL_PINGS = 3
"""Pings that a newer incarnation of this node's id may leave unanswered until it counts as another process."""
OUTGROWTH = 1_000_000
"""By at most so much a node goes beyond an incarnation of its id."""


class Host(Protocol):
    """What membership asks of the node it serves."""

    def ping(self, node: NodeInfo, /) -> None:
        """Send a ping to the inbox of `node` (which may be this node itself)."""
        ...

    def on_change(self, event: NodeChangeEvent, /) -> None:
        """The view changed."""
        ...

    def on_fenced(self, incarnation: int, /) -> None:
        """Another process took this node's id, with a newer incarnation: stop taking work."""
        ...

    async def on_rejoin(self, incarnation: int, /) -> None:
        """The others buried this node although it lives: move the inbox to a new incarnation."""
        ...


class Membership:
    """One node's membership: registers it, keeps its lease, watches and probes the others.

    Args:
        discovery: carries the records.
        node: this node's record; its incarnation may still grow while it joins.
        load: this node's load, asked at each heartbeat.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        discovery: NodeDiscovery,
        node: NodeInfo,
        host: Host,
        settings: MembershipSettings,
        *,
        load: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
        random: random.Random | None = None,
    ) -> None:
        self.me = node
        self.fenced = False
        self.heartbeats = 0
        """Leases refreshed so far."""
        self._discovery = discovery
        self._host = host
        self._settings = settings
        self._load = load
        self._random = random or _system_random()
        self._watchers: set[Watcher] = set()
        self._joined = False
        self._is_member = not settings.observe_only
        self._announced_load = 0
        self._chores = Chores(node.node_id, self._random)
        self._rival = 0  # a newer incarnation of this node's id
        self._rival_record: Sighting | None = None
        self._rival_asked = 0
        self._ghosts: dict[str, Departure] = {}  # heard of since the last probe, though they are buried
        self.hearing = HearingClock(clock, max_gap=3 * settings.probe_interval)
        self.view = View(ttl=settings.ttl, clock=clock, hearing=self.hearing, on_change=self._changed)
        self.prober = Prober(
            node.node_id,
            self.view,
            self.hearing,
            ttl=settings.ttl,
            interval=settings.probe_interval,
            confirm=settings.confirm,
            settle=settings.settle,
            random=self._random,
        )

    # -- life -----------------------------------------------------------------------------------------

    async def sync(self) -> None:
        """First step of joining: learn who is there, and outgrow every former life of this node's id."""
        await self._discovery.watch(self._observe, self.view.observations if self._is_member else None)
        for observation in await self._discovery.get_nodes():
            self._observe(observation)

    async def join(self) -> None:
        """Second step: announce this node and start the loops. The inbox is subscribed by now.

        Raises:
            ClusterError: the bus cannot be reached.
        """
        self._joined = self._is_member
        settings = self._settings
        if self._is_member:
            self._refresh()
            await self._discovery.register(self.me)
            self._chores.every(settings.heartbeat_interval, self._heartbeat, "heartbeat")
        self._chores.every(settings.probe_interval, self._probe, "probe", jitter=0.0)
        self._chores.every(settings.ttl / 4, self._reconcile, "reconcile")

    async def update(self, **fields: object) -> None:
        """Change this node's record and tell the others."""
        self.me = msgspec.structs.replace(self.me, sequence=self.me.sequence + 1, **fields)
        if self._is_member:
            self._refresh()
        if self._joined and not self.fenced:
            await self._discovery.register(self.me)

    async def leave(self) -> bool:
        """Unregister and stop the loops. Returns whether the others were told. Never raises for a bus that is gone."""
        await self._chores.stop()
        while self._watchers:  # they end with the members as they are
            self._watchers.pop().close()
        joined, self._joined = self._joined, False  # the echo of our own farewell is no news
        is_told = True
        if joined and not self.fenced:
            end = Departure(self.me.node_id, self.me.incarnation, LeftReason.DRAINED)
            self.view.observe(end)  # who joins now may ask this node
            try:
                await self._announce(end)
            except ClusterError as error:
                is_told = False
                logger.warning("could not unregister: the lease will run out", extra={"catga_error": str(error)})
        await self._discovery.aclose()
        return is_told

    # -- what the node tells --------------------------------------------------------------------------

    def heard(self, node_id: str, incarnation: int, load: float) -> None:
        """Something came from that node over the bus."""
        self.hearing.heard()
        if node_id == self.me.node_id:
            self.outgrown(incarnation)  # whoever says so: the broker is asked
            return
        if self.view.alive(node_id, incarnation, load):
            self.prober.alive(node_id)
        else:
            self._heard_stranger(node_id, incarnation)

    def outgrown(self, incarnation: int) -> None:
        """Somebody knows a newer incarnation of this node's id.

        It is this node's own former life, on a machine whose clock was ahead, or another process. While it
        joins the node outgrows both. Later the broker is asked who listens there: a former life is outgrown,
        a live rival fences this node.
        """
        if not self.me.incarnation < incarnation < NEWEST - OUTGROWTH or self.fenced:
            return
        if not self._joined:
            self.me = msgspec.structs.replace(self.me, incarnation=self._beyond(incarnation))
        elif incarnation > self._rival:
            self._rival, self._rival_asked = incarnation, 0
            self._ask_rival()

    def replaced(self, incarnation: int) -> None:
        """A newer incarnation of this node's id has answered the ping that was sent to its inbox: it lives."""
        if incarnation > self.me.incarnation:
            self._fence(incarnation)

    def unlistened(self, node_id: str, incarnation: int) -> None:
        """Nobody listened on that node's inbox."""
        self.hearing.heard()  # the broker's word: without it the time between two reports is not known
        death = self.prober.unlistened(node_id, incarnation)
        if node_id == self.me.node_id:
            self._rival_asked = 0  # no rival so far; if this is certain it was a former life
            if death is not None:
                self._chores.spawn(lambda: self._rejoin(incarnation), "rejoin")
        elif death is not None and self.view.observe(death) and self._is_member:
            self._chores.spawn(lambda: self._announce(death), "announcing a death")

    def _ask_rival(self) -> None:
        if self._rival <= self.me.incarnation or self.fenced:
            return
        if self._rival_asked == RIVAL_PINGS:  # somebody listens there, if it does not answer
            self._fence(self._rival)
        else:
            if self.hearing.silence < 2 * self._settings.probe_interval:  # a deaf node cannot tell
                self._rival_asked += 1
            self._host.ping(msgspec.structs.replace(self.me, incarnation=self._rival))

    def _fence(self, incarnation: int) -> None:
        if self.fenced:
            return
        self.fenced = True
        logger.critical(
            "fenced: another process has taken this node's id; this one takes no more work",
            extra={"catga_node_id": self.me.node_id, "catga_newer_incarnation": incarnation},
        )
        # What this node answers to joiners must not be that it lives, but who does.
        self.view.observe(Departure(self.me.node_id, self.me.incarnation, LeftReason.CRASHED))
        if self._rival_record is not None:
            self.view.observe(self._rival_record)
        self._host.on_fenced(incarnation)

    def _beyond(self, incarnation: int) -> int:
        """A newer one, which no other process that outgrows the same one takes as well."""
        return incarnation + self._random.randint(1, OUTGROWTH)

    def silent(self, node_id: str, incarnation: int) -> None:
        """The node owes replies and does not answer."""
        self.prober.overdue(node_id)
        self.view.suspect(node_id, incarnation)

    def link_down(self) -> None:
        """The link is lost: what is heard until it is known to be back says nothing about the others."""
        self.prober.link_down()

    def link_up(self) -> None:
        """The link is back: the gap proves nothing about the others, but may have hidden news."""
        self.prober.link_up()
        self._chores.spawn(self._after_reconnect, "reconcile")

    def some_others(self, count: int) -> list[NodeInfo]:
        """The other members, or `count` of them picked at random."""
        others = [node for node in self.view.nodes() if node.node_id != self.me.node_id]
        return others if len(others) <= count else self._random.sample(others, count)

    def watch(self) -> Watcher:
        """A new watcher: first every member, then changes."""
        watcher = Watcher(self.view.snapshot(), self.view.version, self._watchers.discard)
        self._watchers.add(watcher)
        return watcher

    # -- observations ---------------------------------------------------------------------------------

    def _heard_stranger(self, node_id: str, incarnation: int) -> None:
        """A sign of life of no member. If it is one that was buried alive it has to be told, or it never returns:
        the news of its end may have been lost, and a store does not keep it."""
        end = self.view.buried(node_id)
        if end is not None and end.incarnation == incarnation and end.reason is not LeftReason.DRAINED:
            self._ghosts[node_id] = end

    def _observe(self, observation: Observation) -> None:
        self.hearing.heard()
        if isinstance(observation, Departure):
            if observation.node_id == self.me.node_id:
                self._heard_of_my_end(observation)
            else:
                self.view.observe(observation)
        elif observation.node.node_id == self.me.node_id:
            if observation.node.incarnation > self.me.incarnation:
                self._rival_record = observation
            self._heard_of_me(observation.node)
            if self.fenced:
                self.view.observe(observation)
        elif self.view.observe(observation) and observation.age <= 0:
            self.prober.alive(observation.node.node_id)

    def _heard_of_me(self, record: NodeInfo) -> None:
        if record.incarnation == self.me.incarnation and record.sequence > self.me.sequence:
            self._refute(record.sequence)
        else:
            self.outgrown(record.incarnation)

    def _refute(self, sequence: int) -> None:
        """Somebody announced a record of this very life that is not this node's, and hides the true one: go beyond."""
        if not self._joined or self.fenced:
            return
        if sequence < NEWEST:
            self.me = msgspec.structs.replace(self.me, sequence=sequence)
            self._chores.spawn(self.update, "refuting")
        else:
            self._chores.spawn(lambda: self._rejoin(self.me.incarnation), "rejoin")

    def _heard_of_my_end(self, departure: Departure) -> None:
        if self.fenced:
            self.view.observe(departure)  # the end of the rival
        elif departure.incarnation > self.me.incarnation:
            self.outgrown(departure.incarnation)
        elif departure.incarnation == self.me.incarnation and not self._joined:
            self.me = msgspec.structs.replace(self.me, incarnation=self._beyond(departure.incarnation))
        elif self._rival > self.me.incarnation:
            return  # ended by another process of this id; whether that one lives is being asked
        elif departure.incarnation == self.me.incarnation:
            logger.error(
                "declared %s by the others while alive: rejoining",
                departure.reason.value,
                extra={"catga_node_id": self.me.node_id},
            )
            self._chores.spawn(lambda: self._rejoin(departure.incarnation), "rejoin")

    async def _rejoin(self, ended: int) -> None:
        """Live on under an incarnation beyond the one that ended."""
        if ended < self.me.incarnation or self.fenced:
            return
        incarnation = self._beyond(ended)
        self.me = msgspec.structs.replace(self.me, incarnation=incarnation, sequence=0)
        await self._host.on_rejoin(incarnation)
        self._refresh()
        await self._discovery.register(self.me)

    def _changed(self, event: NodeChangeEvent) -> None:
        if event.type is NodeChangeType.JOINED:
            self.prober.joined(event.node.node_id)
        for watcher in self._watchers:
            watcher.push(event)
        self._host.on_change(event)

    def _refresh(self) -> None:
        """Put this node's own record into its view."""
        self.view.observe(Sighting(self.me))

    # -- loops ----------------------------------------------------------------------------------------

    async def _heartbeat(self) -> None:
        if self.fenced:
            return
        load = round(self._load(), 3)
        self.me = msgspec.structs.replace(self.me, load=load)
        if load_bucket(load) == self._announced_load:
            await self._discovery.heartbeat(self.me)
        else:
            self._announced_load = load_bucket(load)
            await self.update(load=load)
        self.heartbeats += 1

    async def _probe(self) -> None:
        self.view.alive(self.me.node_id, self.me.incarnation)
        if self.hearing.silence >= self._settings.probe_interval / 2:
            self._host.ping(self.me)
        for node in self.prober.tick():
            self._host.ping(node)
        self._ask_rival()
        for departure in self.prober.expired():
            self.view.observe(departure)
        self.view.forget()
        await self._tell_ghosts()

    async def _tell_ghosts(self) -> None:
        ghosts, self._ghosts = self._ghosts, {}
        for end in list(ghosts.values())[:MAX_EXTRA]:
            if self.view.buried(end.node_id) == end:
                await self._announce(end)

    async def _announce(self, end: Departure) -> None:
        await self._discovery.unregister(end.node_id, end.incarnation, end.reason)

    async def _reconcile(self) -> None:
        mine = (-1, -1)  # as the others know this node
        for observation in await self._discovery.get_nodes():
            if not isinstance(observation, Departure) and observation.node.node_id == self.me.node_id:
                mine = observation.node.version
            self._observe(observation)
        if mine < self.me.version and not self.fenced and self._joined and self.me.state is not NodeState.LEFT:
            await self._discovery.register(self.me)

    async def _after_reconnect(self) -> None:
        if self.fenced or self._joined != self._is_member:
            return
        await asyncio.sleep(self._random.uniform(0.0, 0.25))  # not all nodes in one instant
        if self._is_member:
            await self.update()
        await self._reconcile()


def load_bucket(load: float) -> int:
    """Loads of one bucket are not worth an announcement: 0, then one bucket per quarter up to twice full."""
    return min(int(load * 4), 8)


def _system_random() -> random.Random:
    return random.Random(random.SystemRandom().getrandbits(64))
