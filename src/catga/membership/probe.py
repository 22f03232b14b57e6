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


class Prober:
    """Probes one member a tick, each once in a shuffled round (SWIM), and those in doubt besides.

    A. Das, I. Gupta, A. Motivala, "SWIM", DSN 2002, section 4.3: round-robin over a shuffled list bounds the
    time until a given member is probed.

    Args:
        me: this node's id: never probed.
        ttl: seconds of the lease; a member that nears its end is pinged before it may run out.
        confirm: seconds over which nobody must have listened before that is a death.
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
        self._lease_check = max(ttl - 4 * interval, ttl / 2)
        self._confirm = confirm
        self._settle = settle
        self._random = random
        self._round: list[str] = []
        self._pinged: dict[str, int] = {}  # node → incarnation, pinged at the last tick and not heard of since
        self._overdue: set[str] = set()  # nodes in doubt for another reason, to be pinged
        self._absent: dict[str, tuple[int, float, int]] = {}  # node → (incarnation, since, reports)
        self._settled_at = 0.0  # hearing time
        self._resets = hearing.resets
        self._heard = hearing.count

    def tick(self) -> list[NodeInfo]:
        """One probe interval passed: judge what is overdue; returns whom to ping now."""
        if self._resets != self._hearing.resets:
            self.link_up()
        self._judge_silence()
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

    def overdue(self, node_id: str) -> None:
        """A reply of the node is overdue: it is in doubt, and pinged at the next tick."""
        self._overdue.add(node_id)

    def unlistened(self, node_id: str, incarnation: int) -> None:
        """Nobody listens on the node's inbox: stop choosing it now, and find out whether it died."""
        known, since, reports = self._absent.get(node_id, (incarnation, self._hearing.now, 0))
        if known != incarnation:
            since, reports = self._hearing.now, 0
        self._absent[node_id] = (incarnation, since, reports + 1)
        self._view.suspect(node_id, incarnation)

    def link_up(self) -> None:
        """The link was lost and is back, or this node was deaf: evidence from before is void."""
        self._resets = self._hearing.resets
        self._pinged.clear()
        self._overdue.clear()
        self._absent.clear()
        self._settled_at = self._hearing.now + self._settle

    def crashed(self) -> list[Departure]:
        """The deaths that are certain by now. The caller buries them and tells the others."""
        if self._hearing.now < self._settled_at:
            return []
        dead = [
            Departure(node_id, incarnation, LeftReason.CRASHED)
            for node_id, (incarnation, since, reports) in self._absent.items()
            if reports > 1 and self._hearing.now - since >= self._confirm
        ]
        for departure in dead:
            self.alive(departure.node_id)
        return dead

    def _judge_silence(self) -> None:
        if self._hearing.count > self._heard:  # else it is this node that was deaf
            for node_id, incarnation in self._pinged.items():  # a whole interval went by without an answer
                self._view.suspect(node_id, incarnation)
        self._pinged.clear()

    def _in_doubt(self) -> Iterable[NodeInfo]:
        ids = {*self._overdue, *self._absent, *self._view.suspects()}
        ids.update(node.node_id for node in self._view.older_than(self._lease_check))
        ids.discard(self._me)
        doubtful = [node for node_id in sorted(ids) if (node := self._view.get(node_id)) is not None]
        return doubtful if len(doubtful) <= MAX_EXTRA else self._random.sample(doubtful, MAX_EXTRA)

    def _next(self) -> NodeInfo | None:
        for _ in range(2):
            while self._round:
                node = self._view.get(self._round.pop())
                if node is not None:
                    return node
            self._round = [n.node_id for n in self._view.nodes() if n.node_id != self._me]
            self._random.shuffle(self._round)
        return None
