"""The simulation has teeth: each rule of membership and of requests, broken on purpose, is noticed."""

import functools
import itertools
import math
import pkgutil
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from histories import BrokenRuleError
from mishaps import history
from scripted import (
    amnesia,
    crash_overheard,
    crash_under_load,
    crowd,
    freeze_under_load,
    resets,
    rush,
    split,
    thaw,
)
from simulated_calls import QuickWork, Work

from catga.abc import Departure
from catga.cluster.node import Node
from catga.membership.hearing import HearingClock
from catga.membership.membership import Membership
from catga.membership.own import OwnLife
from catga.membership.probe import Prober
from catga.membership.reports import Reports
from catga.membership.view import View
from catga.node import LeftReason, NodeInfo
from catga.rpc.client import Client

HISTORIES = 1000


def caught_as(told: Callable[[int], object] = history, *, seeds: int = HISTORIES) -> str:
    """The rule that the first bad history breaks; empty if none of them sees anything wrong."""
    for seed in range(seeds):
        try:
            told(seed)
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
    assert caught_as(thaw) == "false death"


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
    assert caught_as(thaw, seeds=20) == "false death"


def test_one_bounce_is_no_death(monkeypatch: pytest.MonkeyPatch) -> None:
    """No confirmation: one "nobody listens" is a death."""

    init = Reports.__init__

    def hasty(self: Reports, *args: object, **options: object) -> None:
        init(self, *args, **{**options, "confirm": 0.0})  # type: ignore[arg-type]

    monkeypatch.setattr(Reports, "__init__", hasty)
    assert caught_as() == "false death"


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


def test_the_broker_is_believed_by_a_fresh_word_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """That it told the truth the last time is enough to take a former life for a live rival."""
    words = itertools.count()
    monkeypatch.setattr(Node, "bounces", lambda _: next(words))
    monkeypatch.setattr(Node, "test_bounces", _nothing)
    with pytest.raises(BrokenRuleError, match="wrong one fenced"):
        amnesia(0.4).check_calm()


def ends_the_calls(self: Client, node_id: str, incarnation: int) -> None:
    """What a silent node has of calls that may run twice is over, in doubt."""
    destination = self.destinations.get((node_id, incarnation))
    if destination is not None:
        self._lose(destination, f"node {node_id} does not answer", only_idempotent=True)


def once(told: Callable[[], object]) -> Callable[[int], object]:
    return lambda _: told()


class Mutant(msgspec.Struct, frozen=True):
    """A rule broken on purpose.

    Attributes:
        rule: what it breaks.
        targets: what is replaced, by dotted name.
        broken: what replaces it.
        told: the histories that notice, by seed.
        caught: as one of these.
    """

    rule: str
    targets: tuple[str, ...]
    broken: Any
    told: Callable[[int], object]
    caught: tuple[str, ...]
    seeds: int = 1


def _nothing(*_: object) -> None:
    pass


MUTANTS = [
    Mutant(
        "busy is not dead: the loop gets a turn",
        ("catga.rpc.runner.SLICE", "catga.rpc.server.SLICE"),
        math.inf,
        once(functools.partial(rush, Work)),
        ("busy taken for dead", "failed though served"),
    ),
    Mutant(
        "busy is not dead: the loop gets a turn in the receive path",
        ("catga.rpc.runner.SLICE", "catga.rpc.server.SLICE"),
        math.inf,
        once(functools.partial(rush, QuickWork)),
        ("busy taken for dead", "failed though served"),
    ),
    Mutant(
        "busy is not dead: a suspicion ends no call",
        ("catga.rpc.client.Client.node_silent",),
        ends_the_calls,
        once(functools.partial(freeze_under_load, freeze=1.0)),
        ("failed though served",),
    ),
    Mutant(
        "from a node that is gone, calls move free of charge",
        ("catga.rpc.client.Client.node_left",),
        ends_the_calls,
        once(crash_under_load),
        ("failed though served",),
    ),
    Mutant(
        "from a node that answers nobody, calls move free of charge",
        ("catga.rpc.client.Client.node_unreachable",),
        _nothing,
        once(freeze_under_load),
        ("failed though served",),
    ),
    Mutant(
        "the buried are asked again",
        ("catga.membership.lost.Lost.next",),
        lambda _: None,
        once(functools.partial(split, 60.0, ttl=10.0)),
        ("not whole",),
    ),
    Mutant(
        "who is buried alive refutes it",
        ("catga.membership.own.OwnLife._refute",),
        _nothing,
        once(functools.partial(split, 30.0)),
        ("not whole",),
    ),
    Mutant(
        "a mass death is a split",
        ("catga.membership.reports.Reports.is_mass",),
        property(lambda _: False),
        once(functools.partial(split, 6.0)),
        ("false death",),
    ),
    Mutant(
        "a no is final",
        ("catga.rpc.refusals.Refusals.look_up",),
        lambda *_: None,
        resets,
        ("ran twice", "a no that ran"),
        seeds=60,
    ),
    Mutant(
        "a deadline is the caller's",
        ("catga.rpc.clock.Lateness.of",),
        lambda *_: 0.0,
        once(functools.partial(freeze_under_load, timeout=1.0, freeze=9.0)),
        ("ran late",),
    ),
    Mutant(
        "who does not answer others either is unreachable",
        ("catga.membership.witnesses.Witnesses.agree",),
        lambda *_, **__: False,
        once(crash_overheard),
        ("death unnoticed",),
    ),
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.rule)
def test_a_broken_rule_is_noticed(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of these is a fault that was found once."""
    for target in filter(is_there, mutant.targets):
        monkeypatch.setattr(target, mutant.broken)
    assert caught_as(mutant.told, seeds=mutant.seeds) in mutant.caught


def is_there(target: str) -> bool:
    """Whether there is something of this dotted name. Code that lacks the rule needs no mutation."""
    try:
        pkgutil.resolve_name(target)
    except (ImportError, AttributeError):
        return False
    return True
