"""The rules of membership, for any order, loss and repetition of what is observed."""

from collections.abc import Iterator
from typing import NamedTuple

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from catga.abc import Departure, Observation, Sighting
from catga.membership import View, Watcher
from catga.membership.hearing import HearingClock
from catga.node import NEWEST, OUTGROWABLE, LeftReason, NodeChangeEvent, NodeChangeType, NodeInfo, NodeState
from catga.testing import ManualClock

JOINED, UPDATED, LEFT = NodeChangeType.JOINED, NodeChangeType.UPDATED, NodeChangeType.LEFT
TTL, MAX_GAP = 10.0, 3.0
IDS = ("a", "b", "c")


class History(NamedTuple):
    """What truly happened to the nodes, and what an observer gets to hear of it."""

    truth: dict[str, NodeInfo]
    heard: list[Observation]


def lives(node_id: str, draw: st.DrawFn) -> tuple[list[Observation], NodeInfo | None]:
    """Everything that one node and those who bury it ever published, and its last record if it lives."""
    news: list[Observation] = []
    record: NodeInfo | None = None
    incarnation = 0
    for _ in range(draw(st.integers(0, 3))):
        incarnation += draw(st.integers(1, 2))
        for sequence in range(draw(st.integers(1, 3))):
            state = draw(st.sampled_from([NodeState.ALIVE, NodeState.DRAINING]))
            record = NodeInfo(node_id=node_id, incarnation=incarnation, sequence=sequence, state=state)
            news.append(Sighting(record, draw(st.sampled_from([0.0, 1.0]))))
            if draw(st.integers(0, 3)) == 0:  # it is buried alive, and refutes that
                news.append(Departure(node_id, incarnation, LeftReason.CRASHED, sequence=sequence))
                record = NodeInfo(node_id=node_id, incarnation=incarnation, sequence=sequence + 1)
                news.append(Sighting(record))
        if draw(st.booleans()):
            news.append(Departure(node_id, incarnation, draw(st.sampled_from(LeftReason))))
            record = None
    return news, record


@st.composite
def histories(draw: st.DrawFn) -> History:
    """A history; of what is heard, parts are lost, repeated and out of order, but the last news of each node
    arrives at some time."""
    truth: dict[str, NodeInfo] = {}
    heard: list[Observation] = []
    for node_id in IDS:
        news, alive = lives(node_id, draw)
        if news:
            heard += [*draw(st.lists(st.sampled_from(news), max_size=8)), news[-1]]
        if alive is not None:
            truth[node_id] = alive
    return History(truth, draw(st.permutations(heard)))


class Observer:
    """A view, the events it reported, and checks of what must hold after each of them."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.hearing = HearingClock(self.clock, MAX_GAP)
        self.view = View(ttl=TTL, clock=self.clock, hearing=self.hearing, on_change=self._changed)
        self.events: list[NodeChangeEvent] = []
        self.watchers: list[Watcher] = []

    def _changed(self, event: NodeChangeEvent) -> None:
        self.events.append(event)
        for watcher in self.watchers:
            watcher.push(event)

    def expire(self) -> list[NodeInfo]:
        """Bury the members whose lease ran out (a live node asks them first: `catga.membership.probe`)."""
        gone = self.view.older_than(TTL)
        for node in gone:
            self.view.observe(Departure(node.node_id, node.incarnation, LeftReason.EXPIRED))
        self.view.forget()
        return gone

    def members(self) -> dict[str, tuple[int, int]]:
        """Id → (incarnation, sequence)."""
        return {node.node_id: node.version for node in self.view.nodes()}


def unread(watcher: Watcher) -> Iterator[NodeChangeEvent]:
    """The events that wait, without an event loop: an empty watcher would need one."""
    while True:
        try:
            watcher.__anext__().send(None)
        except StopIteration as done:
            yield done.value
        except RuntimeError:
            return


def fold(events: list[NodeChangeEvent]) -> dict[str, tuple[int, int]]:
    """The members that result from `events`, each of which must make sense after the ones before it."""
    members: dict[str, NodeInfo] = {}
    for event in events:
        known = members.get(event.node.node_id)
        assert (event.type is JOINED) == (known is None)
        assert (event.reason is not None) == (event.type is LEFT)
        assert known is None or event.node.version >= known.version
        if event.type is LEFT:
            del members[event.node.node_id]
        else:
            members[event.node.node_id] = event.node
    return {node_id: node.version for node_id, node in members.items()}


@given(histories())
def test_views_converge_whatever_the_order_loss_and_repetition(history: History) -> None:
    observer = Observer()
    for observation in history.heard:
        observer.view.observe(observation)
    assert observer.members() == {node_id: node.version for node_id, node in history.truth.items()}


@given(histories())
def test_two_observers_of_the_same_news_agree(history: History) -> None:
    first, second = Observer(), Observer()
    for observation in history.heard:
        first.view.observe(observation)
    for observation in sorted(history.heard, key=repr):
        second.view.observe(observation)
    assert first.members() == second.members()


@given(histories())
def test_no_change_is_reported_twice(history: History) -> None:
    observer = Observer()
    for observation in history.heard * 2:
        observer.view.observe(observation)
        assert fold(observer.events) == observer.members()
    told = [(e.type, e.node) for e in observer.events]
    assert all(told.count(change) == 1 for change in told)
    for kind in (JOINED, LEFT):
        lifes = [(e.node.node_id, e.node.version) for e in observer.events if e.type is kind]
        assert len(lifes) == len(set(lifes))
    assert [e.version for e in observer.events] == list(range(1, len(observer.events) + 1))


@given(histories())
def test_news_heard_again_is_no_news(history: History) -> None:
    observer = Observer()
    for observation in history.heard:
        observer.view.observe(observation)
    count = len(observer.events)
    news = [observer.view.observe(observation) for observation in history.heard]
    assert not any(news)
    assert len(observer.events) == count


@given(histories())
def test_a_view_told_to_another_gives_the_same_view(history: History) -> None:
    first, second = Observer(), Observer()
    for observation in history.heard:
        first.view.observe(observation)
    for observation in first.view.observations():
        second.view.observe(observation)
    assert second.members() == first.members()
    for observation in history.heard:  # its tombstones came along: late news raises nobody
        second.view.observe(observation)
    assert second.members() == first.members()


@given(histories(), st.data())
def test_a_watchers_events_give_the_view_at_any_pace(history: History, data: st.DataObject) -> None:
    observer = Observer()
    late = data.draw(st.integers(0, len(history.heard)))
    told: list[list[NodeChangeEvent]] = []
    for index, observation in enumerate(history.heard):
        if index in (0, late):
            observer.watchers.append(Watcher(observer.view.snapshot(), observer.view.version, lambda _: None))
            told.append([])
        observer.view.observe(observation)
        if data.draw(st.booleans()):  # suspicion and trust are changes as well
            node_id = data.draw(st.sampled_from(IDS))
            incarnation = observer.view.known_incarnation(node_id)
            observer.view.suspect(node_id, incarnation)
            if data.draw(st.booleans()):
                observer.view.alive(node_id, incarnation)
        for watcher, events in zip(observer.watchers, told, strict=True):
            if data.draw(st.integers(0, 3)) == 0:
                waiting = list(unread(watcher))
                assert len(waiting) <= 2 * len(IDS)
                events += waiting
    for watcher, events in zip(observer.watchers, told, strict=True):
        events += unread(watcher)
        assert fold(events) == observer.members()
        assert [e.version for e in events] == sorted(e.version for e in events)


@given(st.lists(st.tuples(st.floats(0.1, 8.0), st.sampled_from([None, *IDS])), max_size=60))
@example([(4.0, None), (1.0, None), (1.0, None), (3.0, None), (3.0, None), (3.0, None)])  # anew from the silence on
def test_nobody_expires_but_by_time_in_which_the_observer_heard(steps: list[tuple[float, str | None]]) -> None:
    """Ages against a second account of them: only gaps short enough count, a longer one starts all anew."""
    observer = Observer()
    ages = dict.fromkeys(IDS, 0.0)
    for node_id in IDS:
        observer.view.observe(Sighting(NodeInfo(node_id=node_id, incarnation=1)))
    for gap, sign_of in steps:
        observer.clock.advance(gap)
        observer.hearing.heard()
        ages = {i: age + gap if gap <= MAX_GAP else 0.0 for i, age in ages.items()}
        if sign_of in ages:
            observer.view.alive(sign_of, 1)
            ages[sign_of] = 0.0
        gone = {node.node_id for node in observer.expire()}
        assert all(ages[i] > TTL - 1e-6 for i in gone)
        assert all(ages[i] < TTL + 1e-6 for i in ages if i not in gone)
        ages = {i: age for i, age in ages.items() if i not in gone}
    left = [event for event in observer.events if event.type is LEFT]
    assert {event.reason for event in left} <= {LeftReason.EXPIRED}


@given(st.lists(st.floats(MAX_GAP + 0.01, 1e6), max_size=20))
def test_nobody_expires_while_the_observer_is_deaf(silences: list[float]) -> None:
    observer = Observer()
    observer.view.observe(Sighting(NodeInfo(node_id="a", incarnation=1)))
    for silence in silences:
        observer.clock.advance(silence)
        assert observer.expire() == []
        observer.hearing.heard()
        assert observer.expire() == []
    assert observer.members() == {"a": (1, 0)}


@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 99), st.floats(0, TTL))
def test_stale_records_raise_nobody(buried: int, stale: int, sequence: int, age: float) -> None:
    observer = Observer()
    observer.view.observe(Departure("a", buried, LeftReason.CRASHED))
    observer.view.observe(Sighting(NodeInfo(node_id="a", incarnation=stale, sequence=sequence), age))
    assert (("a" in observer.members()), bool(observer.events)) == ((stale > buried),) * 2


def test_who_was_buried_alive_returns_in_the_same_incarnation_by_a_later_record() -> None:
    observer = Observer()
    record = NodeInfo(node_id="a", incarnation=5, sequence=3)
    observer.view.observe(Sighting(record))
    observer.view.observe(Departure("a", 5, LeftReason.CRASHED, sequence=3))
    assert (observer.view.ended("a", 5), observer.view.observe(Sighting(record))) == (3, False)
    assert observer.view.observe(Sighting(msgspec.structs.replace(record, sequence=4)))
    assert (observer.members(), observer.view.ended("a", 5)) == ({"a": (5, 4)}, -1)
    assert {type(o) for o in observer.view.observations()} == {Sighting, Departure}  # it coexists with its tombstone


def test_whoever_said_that_it_left_is_not_asked_to_refute_it() -> None:
    observer = Observer()
    observer.view.observe(Departure("a", 5, LeftReason.DRAINED))
    observer.view.observe(Departure("b", 5, LeftReason.EXPIRED, sequence=2))
    ended = [observer.view.ended(node_id, 5) for node_id in "abc"]
    assert (ended, observer.view.ended("b", 4)) == ([-1, 2, -1], -1)


def test_a_death_in_a_life_that_could_not_be_outgrown_is_not_remembered() -> None:
    """Else one forged departure with an enormous incarnation would keep a node out for two leases."""
    observer = Observer()
    for incarnation in (OUTGROWABLE, NEWEST - 1):
        observer.view.observe(Departure("a", incarnation, LeftReason.CRASHED))
    assert observer.view.observe(Sighting(NodeInfo(node_id="a", incarnation=5)))


def test_a_death_in_a_life_that_could_not_be_outgrown_ends_that_life_alone() -> None:
    observer = Observer()
    for node_id, incarnation in (("a", 5), ("b", OUTGROWABLE)):
        observer.view.observe(Sighting(NodeInfo(node_id=node_id, incarnation=incarnation)))
    ends = [Departure(node_id, OUTGROWABLE, LeftReason.CRASHED) for node_id in "abc"]
    assert [observer.view.observe(end) for end in ends] == [False, True, False]
    assert (set(observer.members()), observer.view.buried("b")) == ({"a"}, None)
    assert observer.view.observe(Sighting(NodeInfo(node_id="b", incarnation=5)))


def hear_for(observer: Observer, seconds: float) -> None:
    """Time passes and the observer hears all the while."""
    for _ in range(int(seconds)):
        observer.clock.advance(1.0)
        observer.hearing.heard()


def test_who_was_deaf_keeps_nobody_alive_elsewhere() -> None:
    """It waits for others itself, but does not tell of them as if it had heard them."""
    observer, deaf = Observer(), Observer()
    for each in (observer, deaf):
        each.view.observe(Sighting(NodeInfo(node_id="a", incarnation=1)))
    for _ in range(4):
        hear_for(observer, MAX_GAP + 1)
        deaf.clock.advance(MAX_GAP + 1)
        deaf.hearing.heard()
        for observation in deaf.view.observations():
            observer.view.observe(observation)
    hear_for(observer, 1)
    assert (deaf.expire(), [node.node_id for node in observer.expire()]) == ([], ["a"])
    joiner = Observer()
    for observation in deaf.view.observations():
        joiner.view.observe(observation)
    assert joiner.members() == {"a": (1, 0)}  # who may live


def test_a_tombstone_outlives_the_lease_of_what_it_buries() -> None:
    observer = Observer()
    observer.view.observe(Departure("a", 5, LeftReason.DRAINED))
    hear_for(observer, TTL + 1)
    observer.expire()
    assert not observer.view.observe(Sighting(NodeInfo(node_id="a", incarnation=5)))
    hear_for(observer, 2 * TTL)
    observer.expire()
    assert observer.view.known_incarnation("a") == 0  # and is forgotten in the end


def test_a_restart_is_one_leaving_and_one_joining() -> None:
    observer = Observer()
    observer.view.observe(Sighting(NodeInfo(node_id="a", incarnation=1)))
    observer.view.observe(Sighting(NodeInfo(node_id="a", incarnation=2)))
    told = [(e.type, e.node.incarnation, e.reason) for e in observer.events]
    assert told == [(JOINED, 1, None), (LEFT, 1, LeftReason.CRASHED), (JOINED, 2, None)]


def test_a_watcher_is_told_of_a_restart_as_left_and_joined_however_late_it_reads() -> None:
    observer = Observer()
    observer.view.observe(Sighting(NodeInfo(node_id="a", incarnation=1)))
    watcher = Watcher(observer.view.snapshot(), observer.view.version, lambda _: None)
    observer.watchers.append(watcher)
    list(unread(watcher))
    for incarnation in (2, 3, 4):
        observer.view.observe(Sighting(NodeInfo(node_id="a", incarnation=incarnation)))
    observer.view.suspect("a", 4)
    assert [(e.type, e.node.incarnation) for e in unread(watcher)] == [(LEFT, 1), (JOINED, 4)]


def test_a_watcher_that_reads_late_is_told_nothing_of_a_death_that_was_refuted() -> None:
    observer = Observer()
    observer.view.observe(Sighting(NodeInfo(node_id="a", incarnation=1)))
    watcher = Watcher(observer.view.snapshot(), observer.view.version, lambda _: None)
    observer.watchers.append(watcher)
    list(unread(watcher))
    observer.view.observe(Departure("a", 1, LeftReason.CRASHED, sequence=0))
    observer.view.observe(Sighting(NodeInfo(node_id="a", incarnation=1, sequence=1)))
    assert [(e.type, e.node.sequence) for e in unread(watcher)] == [(UPDATED, 1)]


def test_a_record_older_than_the_lease_is_no_member() -> None:
    observer = Observer()
    assert not observer.view.observe(Sighting(NodeInfo(node_id="a", incarnation=1), TTL + 1))
    assert observer.members() == {}


def test_suspicion_is_told_once_and_taken_back_once() -> None:
    observer = Observer()
    observer.view.observe(Sighting(NodeInfo(node_id="a", incarnation=1)))
    for _ in range(2):
        observer.view.suspect("a", 1)
    observer.view.suspect("a", 0)  # of a former life
    for _ in range(2):
        observer.view.alive("a", 1, 0.5)
    states = [(event.type, event.node.state) for event in observer.events]
    assert states == [(JOINED, NodeState.ALIVE), (UPDATED, NodeState.SUSPECT), (UPDATED, NodeState.ALIVE)]
    assert observer.view.load("a") == 0.5


def test_a_load_report_is_no_change() -> None:
    observer = Observer()
    observer.view.observe(Sighting(NodeInfo(node_id="a", incarnation=1)))
    before = observer.view.nodes()
    observer.view.alive("a", 1, 0.75)
    assert (len(observer.events), observer.view.nodes() is before) == (1, True)
    assert msgspec.structs.replace(observer.view.snapshot()[0], last_seen=0.0).load == 0.75


def test_a_view_is_bounded() -> None:
    from catga.membership.view import MAX_MEMBERS, MAX_TOMBSTONES

    observer = Observer()
    for index in range(MAX_MEMBERS + 5):
        observer.view.observe(Sighting(NodeInfo(node_id=f"n{index}", incarnation=1)))
    for index in range(MAX_TOMBSTONES + 5):
        observer.view.observe(Departure(f"gone{index}", 1, LeftReason.DRAINED))
    assert (len(observer.members()), observer.view.rejected) == (MAX_MEMBERS, 5)
    assert sum(isinstance(o, Departure) for o in observer.view.observations()) == MAX_TOMBSTONES


def test_time_passes_only_while_something_is_heard() -> None:
    clock = ManualClock()
    hearing = HearingClock(clock, MAX_GAP)
    clock.advance(2)
    assert (hearing.now, hearing.silence) == (0.0, 2.0)
    hearing.heard()
    assert (hearing.now, hearing.silence, hearing.resets) == (2.0, 0.0, 0)
    clock.advance(MAX_GAP + 1)
    hearing.heard()
    assert (hearing.now, hearing.resets) == (2.0, 1)
