"""Liveness probes: whom to ping next, and what silence means. Pure; driven by `tick`.

The broker knows who listens. A ping to an inbox with no subscriber comes back at once as *unlistened*: the
node crashed. A ping that is delivered but not answered means that the node is stuck: suspect. Both stop the
routing at once; only the first, confirmed, is a death.
"""

import random
from collections.abc import Iterable

from catga.abc import Departure
from catga.membership.hearing import HearingClock
from catga.membership.view import View
from catga.node import LeftReason, NodeInfo

MAX_EXTRA = 8  # suspects and overdue leases pinged in one tick, so that the cost a tick is constant
ASKED = 3  # pings that a member leaves unanswered, at least, before its lease may run out
STALE = 10  # intervals after which a report that nobody listens no longer supports the next one


class Prober:
    """Probes one member a tick, each once in a shuffled round (SWIM), and those in doubt besides.

    A. Das, I. Gupta, A. Motivala, "SWIM", DSN 2002, section 4.3: round-robin over a shuffled list bounds the
    time until a given member is probed.

    Args:
        me: this node's id: never probed.
        ttl: seconds of the lease; a member that nears its end is pinged before it may run out.
        confirm: seconds over which nobody must have listened before that is a death, give or take a tenth for
            the way of the reports.
        settle: seconds after the link came up in which nobody is declared dead: the others may not be back.
        random: shuffles the rounds.
    """

    def __init__(
        self,
        me: str,
        view: View,
        hearing: HearingClock,
        *,
        ttl: float,
        interval: float = 1.0,
        confirm: float = 1.0,
        settle: float = 5.0,
        random: random.Random,
    ) -> None:
        self._me = me
        self._view = view
        self._hearing = hearing
        self._ttl = ttl
        self._lease_check = max(ttl - 4 * interval, ttl / 2)
        self._patience = ttl / 4
        self._stale = STALE * interval
        self._confirm = confirm
        self._settle = settle
        self._random = random
        self._round: list[str] = []
        self._pinged: dict[str, int] = {}  # node → incarnation, pinged at the last tick and not heard of since
        self._overdue: set[str] = set()  # nodes in doubt for another reason, to be pinged
        self._absent: dict[str, tuple[int, float, float]] = {}  # node → (incarnation, first report, last report)
        self._asked: dict[str, tuple[int, float, int]] = {}  # lease at its end → (incarnation, since, pings)
        self._linked = True
        self._settled_at = hearing.now + settle
        self._resets = hearing.resets
        self._heard = hearing.count

    def tick(self) -> list[NodeInfo]:
        """One probe interval passed: judge what is overdue; returns whom to ping now."""
        self._void_if_deaf()
        self._judge_silence()
        # Reports that came after a node had left are of no use.
        self._absent = {i: seen for i, seen in self._absent.items() if i == self._me or self._view.get(i) is not None}
        targets = {node.node_id: node for node in self._in_doubt()}
        following = self._next()
        if following is not None:
            targets.setdefault(following.node_id, following)
        for node in targets.values():
            self._pinged[node.node_id] = node.incarnation
        self._overdue.clear()
        self._heard = self._hearing.count
        return list(targets.values())

    def joined(self, node_id: str) -> None:
        """A new member: it comes at a random place of this round, not only after it (SWIM, section 4.3)."""
        if node_id != self._me:
            self._round.insert(self._random.randint(0, len(self._round)), node_id)

    def alive(self, node_id: str) -> None:
        """A sign of life: whatever was held against the node is void."""
        self._pinged.pop(node_id, None)
        self._overdue.discard(node_id)
        self._absent.pop(node_id, None)
        self._asked.pop(node_id, None)

    def overdue(self, node_id: str) -> None:
        """A reply of the node is overdue: it is in doubt, and pinged at the next tick."""
        self._overdue.add(node_id)

    def unlistened(self, node_id: str, incarnation: int) -> Departure | None:
        """Nobody listens on the node's inbox: stop choosing it now, and find out whether it died.

        Returns its death, if this report makes it certain: reports from before and now, and no sign of life
        between them. The caller buries the node and tells the others.
        """
        self._void_if_deaf()
        self._view.suspect(node_id, incarnation)
        now = self._hearing.now
        known, first, last = self._absent.get(node_id, (incarnation, now, now))
        if known != incarnation or now - last > self._stale:
            first = now
        self._absent[node_id] = (incarnation, first, now)
        if not self._linked or now < self._settled_at or now - first < 0.9 * self._confirm:
            return None
        self.alive(node_id)
        return Departure(node_id, incarnation, LeftReason.CRASHED)

    def link_down(self) -> None:
        """The link is lost, or not yet known to be back: nobody is declared dead."""
        self._linked = False

    def link_up(self) -> None:
        """The link was lost and is back: evidence from before is void, and the others may not be back yet."""
        self._linked = True
        self._start_anew()

    def _start_anew(self) -> None:
        self._resets = self._hearing.resets
        self._pinged.clear()
        self._overdue.clear()
        self._absent.clear()
        self._asked.clear()
        self._settled_at = self._hearing.now + self._settle

    def expired(self) -> list[Departure]:
        """Whose lease ran out. Being unheard of is no evidence where there are too many members to hear of them
        all: it needs pings without an answer."""
        now = self._hearing.now
        return [
            Departure(node.node_id, node.incarnation, LeftReason.EXPIRED)
            for node in self._view.older_than(self._ttl)
            if (asked := self._asked.get(node.node_id)) is not None
            and asked[2] >= ASKED
            and now - asked[1] >= self._patience
        ]

    def _void_if_deaf(self) -> None:
        if self._resets != self._hearing.resets:
            self._start_anew()

    def _judge_silence(self) -> None:
        if self._hearing.count > self._heard:  # else it is this node that was deaf
            for node_id, incarnation in self._pinged.items():  # a whole interval went by without an answer
                self._view.suspect(node_id, incarnation)
        self._pinged.clear()

    def _in_doubt(self) -> list[NodeInfo]:
        """Whom to ping besides the next of the round. First come those about whom one more report may be the
        last word, in the order in which doubt arose."""
        ids = [*sorted(self._absent, key=lambda node_id: self._absent[node_id][1]), *sorted(self._overdue)]
        ids += self._sample(set(self._view.suspects()).difference(ids), MAX_EXTRA - len(ids))
        ids += self._leases(MAX_EXTRA - len(ids))
        doubtful = (self._view.get(node_id) for node_id in dict.fromkeys(ids) if node_id != self._me)
        return [node for node in doubtful if node is not None][:MAX_EXTRA]

    def _leases(self, room: int) -> list[str]:
        """Members whose lease nears its end; those that were asked already come first."""
        old = {node.node_id: node.incarnation for node in self._view.older_than(self._lease_check)}
        self._asked = {i: asked for i, asked in self._asked.items() if old.get(i) == asked[0]}
        chosen = list(self._asked)[: max(room, 0)]
        chosen += self._sample(set(old).difference(self._asked), room - len(chosen))
        for node_id in chosen:
            incarnation, since, pings = self._asked.get(node_id, (old[node_id], self._hearing.now, 0))
            self._asked[node_id] = (incarnation, since, pings + 1)
        return chosen

    def _sample(self, ids: Iterable[str], room: int) -> list[str]:
        found = sorted(ids)
        return found if len(found) <= room else self._random.sample(found, max(room, 0))

    def _next(self) -> NodeInfo | None:
        for _ in range(2):
            while self._round:
                node = self._view.get(self._round.pop())
                if node is not None:
                    return node
            self._round = [n.node_id for n in self._view.nodes() if n.node_id != self._me]
            self._random.shuffle(self._round)
        return None
