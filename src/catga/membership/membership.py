"""`Membership`: the view kept true by discovery and probes. The only place where the rules meet I/O."""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import Protocol

from catga.abc import Departure, NodeDiscovery, Observation, Sighting
from catga.errors import ClusterError
from catga.membership import own
from catga.membership.chores import Chores
from catga.membership.hearing import HearingClock
from catga.membership.load import OwnLoad
from catga.membership.lost import Lost
from catga.membership.probe import Found, Prober
from catga.membership.settings import MembershipSettings
from catga.membership.view import View
from catga.membership.watchers import Watcher
from catga.membership.witnesses import Question
from catga.node import LeftReason, NodeChangeEvent, NodeChangeType, NodeInfo, NodeState

logger = logging.getLogger("catga.membership")

MAX_TOLD = 8
"""Strangers that are told what this node knows of them, a probe interval."""
MAX_ANSWERS = 16
"""Questions about other members that this node answers, a probe interval."""
NOTHING = (-1, -1)
"""A version below all others."""
UNKNOWN = 1e9
"""Seconds, for an answer about a node that this one knows nothing of."""


class Host(own.Host, Protocol):
    """What membership asks of the node it serves."""

    def ping(self, node: NodeInfo, /) -> None:
        """Send a ping to the inbox of `node` (which may be this node itself, or no member)."""
        ...

    def ask(self, question: Question, /) -> None:
        """Ask a member about another."""
        ...

    def tell(self, reply_to: str, nonce: int, age: float, /) -> None:
        """Answer such a question."""
        ...

    def introduce(self, node_id: str, incarnation: int, /) -> None:
        """Tell the node unasked, at its inbox, what this one knows of it, as a pong does."""
        ...

    def bounces_work(self) -> bool:
        """Whether the broker tells when nobody listens, as far as known."""
        ...

    def test_bounces(self) -> None:
        """Find out now whether it does, however often it has to be tried: `bounces` counts one more then, or
        `bounces_work` turns false."""
        ...

    def bounces(self) -> int:
        """How often the broker has passed that test."""
        ...

    def refusals(self) -> int:
        """How often the broker said that it did not take a message of this node."""
        ...

    def on_change(self, event: NodeChangeEvent, /) -> None:
        """The view changed."""
        ...

    def on_unreachable(self, node: NodeInfo, /) -> None:
        """A member is silent to this node and to another one."""
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
        forgeable: what the broker says about who listens may be forged (`Prober`).
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
        forgeable: bool = False,
        clock: Callable[[], float] = time.monotonic,
        random: random.Random | None = None,
    ) -> None:
        self._id = node.node_id
        self.heartbeats = 0
        """Leases refreshed so far."""
        self._discovery = discovery
        self._host = host
        self._settings = settings
        self._load = OwnLoad(load, settings.heartbeat_interval, clock)
        self._random = random or _system_random()
        self._watchers: set[Watcher] = set()
        self._is_member = not settings.observe_only
        self._chores = Chores(node.node_id, self._random)
        self._strangers: dict[str, int] = {}  # heard of since the last probe: they are to be told
        self._answered = 0  # questions, since the last probe
        self._registering = 0  # announcements of this node under way
        self._told = NOTHING  # the version of this node that was announced last
        self.hearing = HearingClock(clock, max_gap=3 * settings.probe_interval)
        self.view = View(ttl=settings.ttl, clock=clock, hearing=self.hearing, on_change=self._changed)
        self.lost = Lost(clock, self._random)
        self.prober = Prober(
            node.node_id,
            self.view,
            self.hearing,
            ttl=settings.ttl,
            interval=settings.probe_interval,
            confirm=settings.confirm,
            settle=settings.settle,
            forgeable=forgeable,
            random=self._random,
        )
        self.own = own.OwnLife(
            node,
            host,
            self.view,
            self.hearing,
            register=self._register,
            clock=clock,
            chores=self._chores,
            interval=settings.probe_interval,
            random=self._random,
        )

    @property
    def me(self) -> NodeInfo:
        """This node's record."""
        return self.own.record

    @property
    def fenced(self) -> bool:
        """Whether another process has taken this node's id."""
        return self.own.fenced

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
        self.own.joined = self._is_member
        settings = self._settings
        if self._is_member:
            self._measure()
            self._refresh()
            await self._register(self.me)
            self.own.introduce(later=True)
            self._chores.every(settings.heartbeat_interval, self._heartbeat, "heartbeat")
        self._chores.every(settings.probe_interval, self._probe, "probe", jitter=0.0)
        self._chores.every(settings.ttl / 4, self._reconcile, "reconcile")

    async def update(self, **fields: object) -> None:
        """Change this node's record and tell the others."""
        self.own.update(**fields)
        self._measure()
        if self._is_member:
            self._refresh()
        if self.own.joined and not self.fenced:
            await self._register(self.me)

    async def leave(self) -> bool:
        """Unregister and stop the loops. Returns whether the others were told. Never raises for a bus that is gone."""
        await self._chores.stop()
        while self._watchers:  # they end with the members as they are
            self._watchers.pop().close()
        joined, self.own.joined = self.own.joined, False  # the echo of our own farewell is no news
        try:
            return not joined or self.fenced or await self._unregister()
        finally:
            await self._discovery.aclose()

    async def _unregister(self) -> bool:
        end = Departure(self.me.node_id, self.me.incarnation, LeftReason.DRAINED)
        self.view.observe(end)  # who joins now may ask this node
        try:
            await self._discovery.unregister(end)
        except ClusterError as error:
            logger.warning("could not unregister: the lease will run out", extra={"catga_error": str(error)})
            return False
        return True

    # -- what the node tells --------------------------------------------------------------------------

    def heard(self, node_id: str, incarnation: int, load: float) -> None:
        """Something came from that node over the bus."""
        self.hearing.heard()
        if node_id == self._id:
            self.own.outgrown(incarnation)  # whoever says so: the broker is asked
            return
        if self.view.alive(node_id, incarnation, load):
            self.prober.alive(node_id)
        else:
            self._heard_stranger(node_id, incarnation)

    def unlistened(self, node_id: str, incarnation: int, age: float) -> None:
        """Nobody listened on that node's inbox when something came that had left `age` seconds ago at most."""
        self.hearing.heard()  # the broker's word: without it the time between two reports is not known
        if node_id == self.me.node_id:
            if incarnation > self.me.incarnation:
                self.own.rival_unlistened(incarnation, certain=self.prober.is_former_life(incarnation, age))
        else:
            self._act_on(self.prober.unlistened(node_id, incarnation, age))

    def asked(self, reply_to: str, nonce: int, node_id: str, incarnation: int) -> None:
        """A member wants to know how long this one has not heard of another."""
        if self._answered < MAX_ANSWERS:
            self._answered += 1
            self._chores.spawn(lambda: self._witness(reply_to, nonce, node_id, incarnation), "answer")

    def told(self, witness: str, nonce: int, age: float) -> None:
        """A member answers such a question."""
        self._act_on(self.prober.told(witness, nonce, age, bounces_work=self._host.bounces_work()))

    async def _witness(self, reply_to: str, nonce: int, node_id: str, incarnation: int) -> None:
        """Ping the node, and tell what that shows: 0 if it was heard of. Who does not know it has nothing to tell; who
        has buried it is not to be waited for."""
        node, buried = self.view.get(node_id), self.view.buried(node_id)
        if buried is not None and buried.incarnation == incarnation:
            self._host.tell(reply_to, nonce, UNKNOWN)
        if node is None or node.incarnation != incarnation:
            return
        wait = self._settings.probe_interval / 2
        if node_id != self.me.node_id:
            self._host.ping(node)
            await asyncio.sleep(wait)
        heard = self.view.age(node_id) if self.view.is_member(node_id, incarnation) else UNKNOWN
        age = heard if heard is not None and heard >= wait and node_id != self.me.node_id else 0.0
        self._host.tell(reply_to, nonce, age)

    def _act_on(self, found: Found) -> None:
        for node in found.pings:
            self._host.ping(node)
        for question in found.questions:
            self._host.ask(question)
        if found.silent is not None:
            self._host.on_unreachable(found.silent)
        if found.death is not None and self._bury(found.death) and self._is_member:
            death = found.death
            self._chores.spawn(lambda: self._discovery.unregister(death), "announcing a death")

    def silent(self, node_id: str, incarnation: int) -> None:
        """The node owes replies and does not answer."""
        self.prober.overdue(node_id)
        self.view.suspect(node_id, incarnation)

    def link_down(self) -> None:
        """The link is lost: what is heard until it is known to be back says nothing about the others."""
        self.prober.link_down()
        self.own.link_down()

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
        """A sign of life of no member. If it is one that was buried alive, or lost, it has to be told, or it never
        returns: the news of its end may have been lost, and a store does not keep it."""
        is_lost = (node_id, incarnation) in self.lost or self.view.ended(node_id, incarnation) >= 0
        if is_lost and len(self._strangers) < MAX_TOLD:
            self._strangers[node_id] = incarnation

    def _observe(self, observation: Observation) -> None:
        self.hearing.heard()
        if isinstance(observation, Departure):
            if observation.node_id == self.me.node_id:
                self.own.heard_end(observation)
            elif not self.prober.doubts(observation):
                self._bury(observation)
        elif observation.node.node_id == self.me.node_id:
            self.own.heard_record(observation)
        elif self.view.observe(observation) and observation.age <= 0:
            self.prober.alive(observation.node.node_id)

    def _bury(self, end: Departure) -> bool:
        """Take in a departure, and remember whom to ask again. Returns whether it was news."""
        is_news = self.view.observe(end)
        if end.reason is LeftReason.DRAINED:
            self.lost.found(end.node_id, end.incarnation)
        elif is_news and self.view.get(end.node_id) is None:
            self.lost.add(end.node_id, end.incarnation)
        return is_news

    def _changed(self, event: NodeChangeEvent) -> None:
        node = event.node
        if event.type is NodeChangeType.JOINED:
            self.lost.found(node.node_id, node.incarnation)
            self.prober.joined(node.node_id)
        elif event.type is NodeChangeType.LEFT:
            lost = event.reason in (LeftReason.CRASHED, LeftReason.UNREACHABLE) and node.node_id != self.me.node_id
            self.prober.left(node.node_id, lost=lost)
        for watcher in self._watchers:
            watcher.push(event)
        self._host.on_change(event)

    def _refresh(self) -> None:
        """Put this node's own record into its view."""
        self.view.observe(Sighting(self.me))

    def present(self) -> NodeInfo:
        """This node's record, with its load as it is now."""
        self._measure()
        return self.me

    def snapshot(self) -> list[NodeInfo]:
        """All members, sorted by id, with their latest load: this node's own is that of now."""
        if self._is_member and not self.fenced:
            self.view.alive(self.me.node_id, self.me.incarnation, self._load.now())
        return self.view.snapshot()

    def _measure(self) -> None:
        """Put the present load into this node's record."""
        self.own.record = self._load.put_into(self.me)

    async def _register(self, record: NodeInfo) -> None:
        """Announce this node. What comes to nothing, for whatever reason, is made up for at the next probe."""
        self._load.announced(record)
        self._told = NOTHING
        self._registering += 1
        try:
            await self._discovery.register(record)
        finally:
            self._registering -= 1
        self._told = max(self._told, record.version)

    # -- loops ----------------------------------------------------------------------------------------

    async def _heartbeat(self) -> None:
        if self.fenced:
            return
        self._measure()
        await self._discovery.heartbeat(self.me)
        self.heartbeats += 1

    async def _probe(self) -> None:
        self.view.alive(self.me.node_id, self.me.incarnation)
        if self._may_register and self._load.is_due(self.present()):
            self._chores.spawn(self.update, "announcement")
        if self.hearing.silence >= self._settings.probe_interval / 2:
            self._host.ping(self.me)
        for node in self.prober.tick():
            self._host.ping(node)
        self.own.ask_rival()
        if self._told < self.me.version and not self._registering and self.prober.linked and self._may_register:
            self._chores.spawn(lambda: self._register(self.me), "announcement")
        self._ask_others()
        for departure in self.prober.expired():
            self._bury(departure)
        self.view.forget()

    def _ask_others(self) -> None:
        """The questions of this interval: to members about silent ones, to strangers and the lost about themselves."""
        self._answered = 0
        for question in self.prober.questions(bounces_work=self._host.bounces_work()):
            self._host.ask(question)
        strangers, self._strangers = self._strangers, {}
        for node_id, incarnation in strangers.items():
            self._host.introduce(node_id, incarnation)
        life = self.lost.next()
        if life is not None:
            node_id, incarnation = life
            self._host.ping(NodeInfo(node_id=node_id, incarnation=incarnation))

    @property
    def _may_register(self) -> bool:
        return self.own.joined and not self.fenced and self.me.state is not NodeState.LEFT

    async def _reconcile(self) -> None:
        mine = NOTHING  # as the others know this node
        for observation in await self._discovery.get_nodes():
            if not isinstance(observation, Departure) and observation.node.node_id == self.me.node_id:
                mine = observation.node.version
            self._observe(observation)
        if mine < self.me.version and self._may_register:
            await self._register(self.me)

    async def _after_reconnect(self) -> None:
        if self.fenced or self.own.joined != self._is_member:
            return
        await asyncio.sleep(self._random.uniform(0.0, 0.25))  # not all nodes in one instant
        if self._is_member:
            await self.update()
        await self._reconcile()


def _system_random() -> random.Random:
    return random.Random(random.SystemRandom().getrandbits(64))
