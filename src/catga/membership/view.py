"""The view: a node's own picture of the members. Pure rules, no I/O, an injected clock.

Observations go in (records, departures, signs of life, suspicions), in any order and any number of times;
each change of the picture comes out exactly once.

The rules (numbered as in docs/architecture.md):

1. A record counts only if its (incarnation, sequence) is newer than what is known or buried. So a node that was
   buried alive returns in the same incarnation, with a record beyond the one that was buried.
2. Ages are hearing time (`catga.membership.hearing`).
4. A lease that ran out removes a node; tombstones outlive what a stale message may live.
5. Suspicion is reversible and immediate; leaving is announced once and buries the incarnation.
"""

import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator

import msgspec

from catga.abc import Departure, Observation, Sighting
from catga.membership.hearing import HearingClock
from catga.node import OUTGROWABLE, LeftReason, NodeChangeEvent, NodeChangeType, NodeInfo, NodeState

MAX_TOMBSTONES = 10_000
MAX_MEMBERS = 10_000


class _Member(msgspec.Struct):
    record: NodeInfo  # as the node published it
    shown: NodeInfo  # as the watchers were told: the record, with our own suspicion and our own clock
    seen: float  # hearing time of its last sign of life
    resets: int
    heard_at: float  # reading of the clock at that sign, whatever was deafness since
    load: float  # as it last reported, with every message of its own
    suspect: bool = False


class _Tombstone(msgspec.Struct):
    version: tuple[int, int]  # of the last record that it buries
    reason: LeftReason
    at: float  # hearing time


class View:
    """Members by id. Every method is synchronous and calls `on_change` for each change, in order.

    Args:
        ttl: seconds of hearing without a sign of life after which a node has left.
        clock: seconds, monotonic; the one that ``last_seen`` is read from.
        hearing: this observer's hearing time.
        on_change: told of every change, once.
    """

    def __init__(
        self,
        *,
        ttl: float,
        clock: Callable[[], float],
        hearing: HearingClock,
        on_change: Callable[[NodeChangeEvent], None],
    ) -> None:
        self._ttl = ttl
        self._horizon = 2 * ttl
        self._clock = clock
        self._hearing = hearing
        self._on_change = on_change
        self._members: dict[str, _Member] = {}
        self._tombstones: OrderedDict[str, _Tombstone] = OrderedDict()
        self._nodes: tuple[NodeInfo, ...] | None = ()
        self._suspects: dict[str, float] = {}  # in an order of its own: a seed tells one history
        self._oldest = 0.0  # no member was last seen before this
        self._ghosts: dict[str, float] = {}  # node → when an older life of it was heard
        self.version = 0
        """Grows by one with each change."""
        self.rejected = 0
        """Records refused because the view was full."""

    # -- reading --------------------------------------------------------------------------------------

    def nodes(self) -> tuple[NodeInfo, ...]:
        """All members, sorted by id. The same tuple until something changes (a load report is no change)."""
        if self._nodes is None:
            self._nodes = tuple(self._members[node_id].shown for node_id in sorted(self._members))
        return self._nodes

    def snapshot(self) -> list[NodeInfo]:
        """All members, sorted by id, with their latest load and ``last_seen``."""
        return [self._show(self._members[node_id]) for node_id in sorted(self._members)]

    def states(self) -> Counter[NodeState]:
        """Return how many members are in which state. It may be called in any thread, as it changes nothing."""
        return Counter(member.shown.state for member in list(self._members.values()))

    def get(self, node_id: str) -> NodeInfo | None:
        """One member."""
        member = self._members.get(node_id)
        return None if member is None else member.shown

    def age(self, node_id: str) -> float | None:
        """Seconds of hearing since the member's last sign of life; None if it is no member."""
        member = self._members.get(node_id)
        return None if member is None else self._age(member)

    def older_than(self, age: float) -> list[NodeInfo]:
        """Members without a sign of life for more than `age` seconds of hearing. Cheap when there are none."""
        if self._hearing.now - self._oldest <= age:
            return []
        self._oldest = self._hearing.now - max((self._age(m) for m in self._members.values()), default=0.0)
        return [m.shown for m in self._members.values() if self._age(m) > age]

    def load(self, node_id: str) -> float:
        """A member's latest load; 0 if it is none."""
        member = self._members.get(node_id)
        return 0.0 if member is None else member.load

    def suspects(self) -> list[str]:
        """Ids of the members that this observer suspects."""
        return list(self._suspects)

    def doubt(self, node_id: str) -> float:
        """Seconds of hearing since this observer suspects the node; 0 if it does not."""
        return self._hearing.now - self._suspects.get(node_id, self._hearing.now)

    def known_incarnation(self, node_id: str) -> int:
        """The newest incarnation heard of, alive or buried; 0 if the id is unknown."""
        member = self._members.get(node_id)
        return max(self._buried(node_id)[0], member.record.incarnation if member else 0)

    def is_member(self, node_id: str, incarnation: int) -> bool:
        """Whether the node is a member in this incarnation."""
        member = self._members.get(node_id)
        return member is not None and member.record.incarnation == incarnation

    def silence(self, node_id: str) -> float:
        """Seconds of the clock since the node's last sign of life, deafness included; infinite if it is no member."""
        member = self._members.get(node_id)
        return math.inf if member is None else self._clock() - member.heard_at

    def buried(self, node_id: str) -> Departure | None:
        """The end of a node that is no member (any more), if it is remembered."""
        tombstone = self._tombstones.get(node_id)
        if node_id in self._members or tombstone is None:
            return None
        incarnation, sequence = tombstone.version
        return Departure(node_id, incarnation, tombstone.reason, sequence=sequence)

    def ended(self, node_id: str, incarnation: int) -> int:
        """The sequence up to which this incarnation is buried, though its node may live; -1 if it is not, or if the
        node said itself that it left."""
        end = self.buried(node_id)
        return end.sequence if end is not None and end.incarnation == incarnation and _may_live(end) else -1

    def ghosts(self) -> dict[str, float]:
        """Ids of members → seconds since a sign of life came from a process with an older incarnation of it: two
        processes have one id."""
        return {node_id: self._clock() - at for node_id, at in self._ghosts.items()}

    def observations(self) -> Iterator[Observation]:
        """The whole view in the form in which another view takes it in: sightings with their ages, departures.

        Ages are told by the clock, as deafness is a reason to wait but no sign of life, which it would pass for
        elsewhere; and at most as the ttl, or a joiner would take nobody from who was deaf that long.
        """
        for member in self._members.values():
            age = min(max(self._clock() - member.heard_at, 0.0), self._ttl)
            yield Sighting(msgspec.structs.replace(member.record, load=member.load), age)
        for node_id, tombstone in self._tombstones.items():
            incarnation, sequence = tombstone.version
            age = max(self._hearing.now - tombstone.at, 0.0)
            yield Departure(node_id, incarnation, tombstone.reason, age, sequence)

    # -- observing ------------------------------------------------------------------------------------

    def observe(self, observation: Observation) -> bool:
        """Take in a record or a departure. Returns whether it was news."""
        if isinstance(observation, Departure):
            return self._bury(observation)
        return self._sight(observation.node, observation.age)

    def alive(self, node_id: str, incarnation: int, load: float | None = None) -> bool:
        """A sign of life straight from the node: a reply, a ping, a pong. Its load is kept without an event: it
        changes with every reply. Returns whether this incarnation is a member."""
        member = self._members.get(node_id)
        if member is None or member.record.incarnation != incarnation:
            if member is not None and member.record.incarnation > incarnation:
                self._ghosts[node_id] = self._clock()
            return False
        member.seen, member.resets, member.heard_at = self._hearing.now, self._hearing.resets, self._clock()
        if load is not None:
            member.load = load
        if member.suspect:
            self._trust(member)
            self._update(member)
        return True

    def suspect(self, node_id: str, incarnation: int) -> None:
        """The node does not answer this observer: stop choosing it, until its next sign of life."""
        member = self._members.get(node_id)
        if member is None or member.record.incarnation != incarnation or member.suspect:
            return
        member.suspect = True
        self._suspects[node_id] = self._hearing.now
        self._update(member)

    def forget(self) -> None:
        """Drop the tombstones that outlived what a stale message may live."""
        horizon = self._hearing.now - self._horizon
        while self._tombstones:
            node_id, tombstone = next(iter(self._tombstones.items()))
            if tombstone.at >= horizon and len(self._tombstones) <= MAX_TOMBSTONES:
                break
            del self._tombstones[node_id]

    # -- the rules ------------------------------------------------------------------------------------

    def _sight(self, record: NodeInfo, age: float) -> bool:
        if record.version <= self._buried(record.node_id):
            return False
        member = self._members.get(record.node_id)
        if member is None:
            return self._join(record, age)
        if record.version < member.record.version:
            return False
        if record.version == member.record.version:
            self._touch(member, age)
            return False
        restarted = record.incarnation > member.record.incarnation
        if restarted:  # its former life ended, noticed or not
            self._bury(Departure(record.node_id, member.record.incarnation, LeftReason.CRASHED))
            return self._join(record, age)
        member.record, member.load = record, record.load
        self._touch(member, age)
        if age <= 0:
            self._trust(member)
        self._update(member)
        return True

    def _join(self, record: NodeInfo, age: float) -> bool:
        if age > self._ttl:
            return False
        if len(self._members) >= MAX_MEMBERS:
            self.rejected += 1
            return False
        seen, heard_at = self._hearing.now - age, self._clock() - age
        member = _Member(record, record, seen, self._hearing.resets, heard_at, record.load)
        self._oldest = min(self._oldest, member.seen)
        member.shown = self._show(member)
        self._members[record.node_id] = member
        self._emit(NodeChangeType.JOINED, member.shown)
        return True

    def _buried(self, node_id: str) -> tuple[int, int]:
        tombstone = self._tombstones.get(node_id)
        return (-1, -1) if tombstone is None else tombstone.version

    def _bury(self, end: Departure) -> bool:
        node_id = end.node_id
        if end.version <= self._buried(node_id) or end.age > self._horizon:
            return False  # known, or so old that the others forget it: not to be passed round for ever
        member = self._members.get(node_id)
        if end.incarnation >= OUTGROWABLE and (member is None or member.record.incarnation != end.incarnation):
            return False  # nobody could outgrow it
        if end.incarnation < OUTGROWABLE:
            self._tombstones[node_id] = _Tombstone(end.version, end.reason, self._hearing.now - end.age)
            self._tombstones.move_to_end(node_id)
            if len(self._tombstones) > MAX_TOMBSTONES:
                self._tombstones.popitem(last=False)
        if member is None or member.record.version > end.version:
            return True
        self._remove(member, end.reason)
        return True

    def _remove(self, member: _Member, reason: LeftReason) -> None:
        node_id = member.record.node_id
        del self._members[node_id]
        self._ghosts.pop(node_id, None)
        self._suspects.pop(node_id, None)
        left = msgspec.structs.replace(member.shown, state=NodeState.LEFT)
        self._emit(NodeChangeType.LEFT, left, reason)

    def _trust(self, member: _Member) -> None:
        member.suspect = False
        self._suspects.pop(member.record.node_id, None)

    def _touch(self, member: _Member, age: float) -> None:
        member.seen = max(self._hearing.now - self._age(member), self._hearing.now - max(age, 0.0))
        member.resets = self._hearing.resets
        member.heard_at = max(member.heard_at, self._clock() - max(age, 0.0))

    def _age(self, member: _Member) -> float:
        # A silence too long to be told from deafness started every age anew (rule 2).
        started = member.seen if member.resets == self._hearing.resets else self._hearing.reset_at
        return self._hearing.now - started

    def _show(self, member: _Member) -> NodeInfo:
        suspected = member.suspect and member.record.state is NodeState.ALIVE
        state = NodeState.SUSPECT if suspected else member.record.state
        last_seen = self._clock() - max(self._age(member), 0.0)
        return msgspec.structs.replace(member.record, state=state, last_seen=last_seen, load=member.load)

    def _update(self, member: _Member) -> None:
        member.shown = self._show(member)
        self._emit(NodeChangeType.UPDATED, member.shown)

    def _emit(self, kind: NodeChangeType, node: NodeInfo, reason: LeftReason | None = None) -> None:
        self._nodes = None
        self.version += 1
        self._on_change(NodeChangeEvent(kind, node, self.version, reason))


def _may_live(end: Departure) -> bool:
    return end.reason is not LeftReason.DRAINED
