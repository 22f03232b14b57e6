"""Reports that nobody listens on a member's inbox, and what they prove together. Pure: no I/O.

One report is a doubt, a second one some time later is a death. But if at one time nobody listens on the inboxes of
many, it is the bus that is split: then nobody is declared dead for `PATIENCE` seconds, as a split bus usually heals.
"""

import random
from collections import OrderedDict

import msgspec

from catga.membership.hearing import HearingClock

PATIENCE = 14.0
"""Seconds of hearing since the first report about a node for which it may be a split; then two more reports count."""
RECENT = 5.0
"""Seconds of hearing for which a death counts as one of the same time."""
CROWD = 64
"""So many members are asked in the intervals after which a report is stale; for each so many more it takes as long."""


class Report(msgspec.Struct):
    """What is known of one member on whose inbox nobody listens.

    Attributes:
        since: when the first report came, in hearing time.
        first: when the first of the two that may be the last word came.
        last: when the newest one came.
        asked: the newest message that found nobody left then, or later. Reports may wait to be read, behind a handler
            that holds the loop: so this must be `confirm` after the first one came.
        order: spreads over the observers who of many is asked first.
    """

    incarnation: int
    since: float
    first: float
    last: float
    asked: float
    order: float


class Reports:
    """The open reports: those that no sign of life has voided.

    Args:
        confirm: seconds between the two reports that are a death, give or take a tenth for their way.
        stale: seconds after which a report no longer supports the next one.
    """

    def __init__(self, hearing: HearingClock, *, confirm: float, stale: float, random: random.Random) -> None:
        self._hearing = hearing
        self._confirm = confirm
        self._stale = stale
        self._random = random
        self.open: dict[str, Report] = {}
        """By id."""
        self._heard: set[str] = set()  # members that gave a sign of life since there are open reports
        self._gone: OrderedDict[str, float] = OrderedDict()  # buried as crashed → when
        self._restarted_at = 0.0

    def __contains__(self, node_id: str) -> bool:
        return node_id in self.open

    def __len__(self) -> int:
        return len(self.open)

    @property
    def is_mass(self) -> bool:
        """Whether a third or more of the nodes that were asked, and at least two, are absent at one time."""
        while self._gone and next(iter(self._gone.values())) < self._hearing.now - RECENT:
            self._gone.popitem(last=False)
        absent = len(self.open) + len(self._gone)
        return absent >= 2 and 3 * absent >= absent + len(self._heard) + 1  # this node itself is there, too

    def add(self, node_id: str, incarnation: int, age: float = 0.0) -> None:
        """Nobody listened on this inbox when something came that had left `age` seconds ago at most."""
        now = self._hearing.now
        if not self.open:
            self._heard.clear()
        self._heard.discard(node_id)
        report = self.open.get(node_id)
        if report is None or report.incarnation != incarnation or now - report.last > self._staleness:
            report = self.open[node_id] = Report(incarnation, now, now, now, 0.0, self._random.random())
        report.last, report.asked = now, max(report.asked, now - age)
        patient = report.since + PATIENCE
        if self.is_mass and now >= patient > self._first(report):
            report.first = now  # asked twice more

    def is_certain(self, node_id: str, incarnation: int) -> bool:
        """Whether the reports about this node prove its death."""
        report = self.open.get(node_id)
        if report is None or report.incarnation != incarnation or self._is_held(report):
            return False
        return report.asked - self._first(report) >= 0.9 * self._confirm

    def since(self, node_id: str) -> float:
        """When the first of the two reports that may be the last word came; infinite if there is none."""
        report = self.open.get(node_id)
        return float("inf") if report is None else self._first(report)

    def told(self, node_id: str, incarnation: int) -> bool:
        """Another member says that this one crashed. Returns whether that is to be believed; else it is a report."""
        self.add(node_id, incarnation)
        return not self._is_held(self.open[node_id])

    def buried(self, node_id: str) -> None:
        """The node counts as crashed."""
        self.open.pop(node_id, None)
        self._gone[node_id] = self._hearing.now
        self._gone.move_to_end(node_id)

    def returned(self, node_id: str) -> None:
        """The node has joined (again)."""
        self._gone.pop(node_id, None)

    def heard(self, node_id: str) -> None:
        """A sign of life. If one of many comes back, the others may be about to: they are asked twice anew."""
        if node_id in self.open:
            if self.is_mass:
                self._restarted_at = self._hearing.now
            del self.open[node_id]
        self._heard.add(node_id)

    def forget(self) -> None:
        """Drop what is stale."""
        oldest = self._hearing.now - self._staleness
        self.open = {i: each for i, each in self.open.items() if each.last >= oldest}

    def clear(self) -> None:
        """Everything is void."""
        self.open.clear()
        self._gone.clear()

    def drop(self, node_id: str) -> None:
        """The node is no member any more."""
        self.open.pop(node_id, None)

    def in_order(self) -> list[str]:
        """Who is to be asked, the most urgent first: about whom two more reports are the last word; then whoever was
        not asked for longest."""
        now = self._hearing.now

        def urgency(node_id: str) -> tuple[bool, float]:
            report = self.open[node_id]
            waits = now < report.since + PATIENCE
            return waits, report.last if waits else report.order

        return sorted(self.open, key=urgency)

    @property
    def _staleness(self) -> float:
        return self._stale * (1 + len(self.open) // CROWD)

    def _first(self, report: Report) -> float:
        return max(report.first, self._restarted_at)

    def _is_held(self, report: Report) -> bool:
        return self.is_mass and self._hearing.now < report.since + PATIENCE
