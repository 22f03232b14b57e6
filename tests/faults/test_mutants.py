"""The simulation has teeth: each rule of membership, broken on purpose, is noticed."""

import pytest
from histories import BrokenRuleError
from mishaps import history
from test_simulation import amnesia, crowd

from catga.abc import Departure
from catga.membership.hearing import HearingClock
from catga.membership.membership import Membership
from catga.membership.own import OwnLife
from catga.membership.probe import Prober
from catga.membership.reports import Reports
from catga.membership.view import View
from catga.node import LeftReason, NodeInfo

HISTORIES = 1000


def caught_as(*, start: int = 0) -> str:
    """The rule that the first bad history breaks; empty if a thousand histories see nothing wrong."""
    for seed in range(start, start + HISTORIES):
        try:
            history(seed)
        except BrokenRuleError as error:
            return str(error).partition(":")[0]
    return ""


def test_ages_by_wall_clock_kill_healthy_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without hearing time, whoever was deaf declares the others dead."""

    def heard(self: HearingClock) -> None:
        time = self._clock()
        self.now += time - self._last
        self._last = time

    monkeypatch.setattr(HearingClock, "heard", heard)
    assert caught_as() == "false death"


def test_without_tombstones_the_dead_rise(monkeypatch: pytest.MonkeyPatch) -> None:
    """A late record raises a node that was buried."""
    bury = View._bury

    def forget(self: View, end: Departure) -> bool:
        news = bury(self, end)
        self._tombstones.clear()
        return news

    monkeypatch.setattr(View, "_bury", forget)
    assert caught_as() == "resurrection"


def test_without_the_incarnation_a_restarted_node_is_taken_for_its_former_life(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A record counts by its sequence alone."""
    monkeypatch.setattr(NodeInfo, "version", property(lambda self: (0, self.sequence)))
    assert caught_as() != ""


def test_absence_from_a_snapshot_is_no_death(monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot that lacks a node buries it."""
    reconcile = Membership._reconcile

    async def strict(self: Membership) -> None:
        found = {o.node.node_id for o in await self._discovery.get_nodes() if not isinstance(o, Departure)}
        for node in self.view.nodes():
            if node.node_id not in found and node.node_id != self.me.node_id:
                self.view.observe(Departure(node.node_id, node.incarnation, LeftReason.EXPIRED))
        await reconcile(self)

    monkeypatch.setattr(Membership, "_reconcile", strict)
    assert caught_as() == "false death"


def test_after_a_reconnect_the_others_get_time_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """No settling: whoever returns first declares the slower ones dead."""
    init = Prober.__init__

    def hasty(self: Prober, *args: object, **options: object) -> None:
        init(self, *args, **{**options, "settle": 0.0})  # type: ignore[arg-type]

    monkeypatch.setattr(Prober, "__init__", hasty)
    assert caught_as() == "false death"


def test_one_bounce_is_no_death(monkeypatch: pytest.MonkeyPatch) -> None:
    """No confirmation: one "nobody listens" is a death."""

    init = Reports.__init__

    def hasty(self: Reports, *args: object, **options: object) -> None:
        init(self, *args, **{**options, "confirm": 0.0})  # type: ignore[arg-type]

    monkeypatch.setattr(Reports, "__init__", hasty)
    assert caught_as() == "false death"


def test_without_refuting_its_end_a_node_buried_alive_stays_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node does not mind what is said about its end."""
    monkeypatch.setattr(OwnLife, "_refute", lambda *_: None)
    assert caught_as() == "views differ"


def test_unheard_of_is_no_reason_to_expire(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease runs out without a question."""

    def unasked(self: Prober) -> list[Departure]:
        old = self._view.older_than(self._ttl)
        return [Departure(node.node_id, node.incarnation, LeftReason.EXPIRED) for node in old]

    monkeypatch.setattr(Prober, "expired", unasked)
    with pytest.raises(BrokenRuleError, match="false death"):
        crowd()


def test_the_memory_of_a_former_life_fences_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A newer incarnation is believed to be alive without a question."""
    monkeypatch.setattr(OwnLife, "ask_rival", lambda self: self._fence(self._rival) if self._rival else None)
    with pytest.raises(BrokenRuleError, match="wrong one fenced"):
        amnesia().check_calm()
