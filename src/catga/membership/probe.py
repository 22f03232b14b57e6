"""Liveness probes: whom to ping next, and what silence means. Pure; driven by `tick`.

The broker knows who listens. A ping to an inbox with no subscriber comes back at once as *unlistened*: the
node crashed. A ping that is delivered but not answered means that the node is stuck: suspect. Both stop the
routing at once; only the first, confirmed, is a death. What reports prove together is in `catga.membership.reports`.
"""

import random
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from catga.abc import Departure
from catga.membership.hearing import HearingClock
from catga.membership.reports import Reports
from catga.membership.view import View
from catga.membership.witnesses import UNHEARD, UNREACHABLE, Question, Witnesses
from catga.node import LeftReason, NodeInfo

MAX_EXTRA = 8  # suspects and overdue leases pinged in one tick, so that the cost a tick is constant
ASKED = 3  # pings that a member leaves unanswered, at least, before its lease may run out
SAMPLE = 8  # other members pinged when nobody listens on an inbox, to learn whether it is only that one
STALE = 10  # intervals after which a report that nobody listens no longer supports the next one


class Found(NamedTuple):
    """What a report or an answer shows, and whom to ask at once.

    Attributes:
        death: a node's, for the caller to announce.
        silent: a node that is silent to another member, too.
    """

    death: Departure | None = None
    silent: NodeInfo | None = None
    pings: Sequence[NodeInfo] = ()
    questions: Sequence[Question] = ()


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
        forgeable: the broker's reports may be forged: a death takes the word of another member as well.
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
        forgeable: bool = False,
        random: random.Random,
    ) -> None:
        self._me = me
        self._view = view
        self._hearing = hearing
        self._ttl = ttl
        self._interval = interval
        self._lease_check = max(ttl - 4 * interval, ttl / 2)
        self._patience = ttl / 4
        self._confirm = confirm
        self._settle = settle
        self._forgeable = forgeable
        self._random = random
        self._round: list[str] = []
        self._pinged: dict[str, int] = {}  # node → incarnation, pinged at the last tick and not heard of since
        self._overdue: set[str] = set()  # nodes in doubt for another reason, to be pinged
        self.reports = Reports(hearing, confirm=confirm, stale=STALE * interval, random=random)
        self._of_rival = Reports(hearing, confirm=confirm, stale=STALE * interval, random=random)
        self._witnesses = Witnesses(me, view, hearing, interval, random)
        self._asked: dict[str, tuple[int, float, int]] = {}  # lease at its end → (incarnation, since, pings)
        self.linked = True
        """Whether the link is believed to work."""
        self._settled_at = hearing.now + settle
        self._resets = hearing.resets
        self._heard = hearing.count

    def tick(self) -> list[NodeInfo]:
        """One probe interval passed: judge what is overdue; returns whom to ping now."""
        self._void_if_deaf()
        self._judge_silence()
        self.reports.forget()
        self._of_rival.forget()
        targets = {node.node_id: node for node in self._in_doubt()}
        following = self._next()
        chosen = self._some_others() if self.reports and not self._is_unsettled else []
        for node in chosen if following is None else [following, *chosen]:
            targets.setdefault(node.node_id, node)
        for node in targets.values():
            self._pinged[node.node_id] = node.incarnation
        self._overdue.clear()
        self._heard = self._hearing.count
        return list(targets.values())

    def joined(self, node_id: str) -> None:
        """A new member: it comes at a random place of this round, not only after it (SWIM, section 4.3)."""
        self.reports.returned(node_id)
        if node_id != self._me:
            self._round.insert(self._random.randint(0, len(self._round)), node_id)

    def left(self, node_id: str, *, lost: bool) -> None:
        """It is no member any more; `lost` if it did not say so itself."""
        self.reports.drop(node_id)
        self._witnesses.heard(node_id)
        if lost:
            self.reports.buried(node_id)

    def alive(self, node_id: str) -> None:
        """A sign of life: whatever was held against the node is void."""
        if self._pinged:
            self._pinged.pop(node_id, None)
        if self._overdue:
            self._overdue.discard(node_id)
        if self._asked:
            self._asked.pop(node_id, None)
        if self.reports.open:
            self.reports.heard(node_id)
        if self._witnesses.asked:
            self._witnesses.heard(node_id)

    def overdue(self, node_id: str) -> None:
        """A reply of the node is overdue: it is in doubt, and pinged at the next tick."""
        self._overdue.add(node_id)

    def unlistened(self, node_id: str, incarnation: int, age: float) -> Found:
        """Nobody listens on the node's inbox: stop choosing it now, and find out whether it died.

        What found nobody had left `age` seconds ago at most. The node died if this report makes it certain: reports
        from before and now, and no sign of life between them. With the first report others are asked at once: who else
        is there is to be known by the second. Nothing is learnt of a node that is no member.
        """
        self._void_if_deaf()
        node = self._view.get(node_id)
        if node is None or node.incarnation != incarnation:
            return Found()
        self._view.suspect(node_id, incarnation)
        is_first, is_new = not self.reports, node_id not in self.reports
        self.reports.add(node_id, incarnation, age)
        return Found(
            death=self._verdict(node, LeftReason.CRASHED),
            pings=self._some_others() if is_first and not self._is_unsettled else (),
            questions=self._witnesses.ask(node) if is_new and self._forgeable else (),
        )

    def is_former_life(self, incarnation: int, age: float) -> bool:
        """Nobody listens on the inbox of another life of this node's own id. Returns whether that is certain by now."""
        self._void_if_deaf()
        self._of_rival.add(self._me, incarnation, age)
        if self._is_unsettled or not self._of_rival.is_certain(self._me, incarnation):
            return False
        self._of_rival.clear()
        return True

    def doubts(self, end: Departure) -> bool:
        """Whether what another member says of this node's end is only a report: the node was heard since, or it is one
        of many that are gone at one time. It is pinged then."""
        node = self._view.get(end.node_id)
        if node is None or node.incarnation != end.incarnation or end.reason is LeftReason.DRAINED:
            return False
        if node.sequence > end.sequence:  # it is known to have refuted this
            self._overdue.add(end.node_id)
            return False
        if self._view.silence(end.node_id) < end.age + self._confirm / 2:
            self._overdue.add(end.node_id)
            return True
        if end.reason is LeftReason.EXPIRED or self.reports.told(end.node_id, end.incarnation):
            return False
        self._view.suspect(end.node_id, end.incarnation)
        return True

    def questions(self, *, bounces_work: bool) -> list[Question]:
        """What to ask other members now, once an interval; nothing while many may be on their way back."""
        if self._is_unsettled:
            return []
        reported = {i for i in self._view.suspects() if i in self.reports} if self._forgeable else set[str]()
        return self._witnesses.due(reported, insisting=not bounces_work)

    def told(self, witness: str, nonce: int, age: float, *, bounces_work: bool) -> Found:
        """Another member's answer to a question: how long it has not heard of a node, 0 if it answered a ping."""
        node = self._witnesses.told(witness, nonce, age)
        if node is None:
            return Found()
        silent = node if age >= UNHEARD and (self._view.age(node.node_id) or 0.0) >= UNHEARD else None
        if node.node_id in self.reports and self._forgeable:
            return Found(self._verdict(node, LeftReason.CRASHED), silent)
        if bounces_work or not self._is_unreachable(node):
            return Found(None, silent)
        self.reports.add(node.node_id, node.incarnation)
        return Found(self._verdict(node, LeftReason.UNREACHABLE), silent)

    def _is_unreachable(self, node: NodeInfo) -> bool:
        age = min(self._view.age(node.node_id) or 0.0, self._hearing.now)  # what others heard before does not count
        # An idle node may not have been heard of long before, by nobody: what counts is that it was pinged in vain.
        asked, enough = self._witnesses, UNREACHABLE - 2 * self._interval
        in_vain = min(self._view.doubt(node.node_id), asked.silence(node.node_id))
        is_silent = age >= UNREACHABLE and in_vain >= enough
        return is_silent and asked.are_there(node.node_id) and asked.agree(node, UNREACHABLE, count=2)

    @property
    def _is_unsettled(self) -> bool:
        return not self.linked or self._hearing.now < self._settled_at

    def _verdict(self, node: NodeInfo, reason: LeftReason) -> Departure | None:
        """The node's death, if its reports prove it, and nothing voids them."""
        if self._is_unsettled or not self.reports.is_certain(node.node_id, node.incarnation):
            return None
        if self._forgeable and not self._is_witnessed(node):
            return None
        return Departure(node.node_id, node.incarnation, reason, sequence=node.sequence)

    def _is_witnessed(self, node: NodeInfo) -> bool:
        """Whether another member has not heard of it either, since the first report and for longer than a busy node is
        silent."""
        return self._witnesses.agree(node, UNHEARD, since=self.reports.since(node.node_id) + UNHEARD)

    def link_down(self) -> None:
        """The link is lost, or not yet known to be back: nobody is declared dead."""
        self.linked = False

    def link_up(self) -> None:
        """The link was lost and is back: evidence from before is void, and the others may not be back yet."""
        self.linked = True
        self._start_anew()

    def _start_anew(self) -> None:
        self._resets = self._hearing.resets
        self._pinged.clear()
        self._overdue.clear()
        self.reports.clear()
        self._of_rival.clear()
        self._asked.clear()
        self._settled_at = self._hearing.now + self._settle

    def expired(self) -> list[Departure]:
        """Whose lease ran out. Being unheard of is no evidence where there are too many members to hear of them
        all: it needs pings without an answer."""
        now = self._hearing.now
        return [
            Departure(node.node_id, node.incarnation, LeftReason.EXPIRED, sequence=node.sequence)
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
        last word."""
        ids = [*self.reports.in_order(), *sorted(self._overdue)]
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

    def _some_others(self) -> list[NodeInfo]:
        """Members about whom there is no report, picked at random."""
        others = [n for n in self._view.nodes() if n.node_id != self._me and n.node_id not in self.reports]
        return others if len(others) <= SAMPLE else self._random.sample(others, SAMPLE)

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
