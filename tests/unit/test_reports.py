"""What silence proves: one death from a split, a busy node from a dead one, and whom to ask again."""

import math
import random
from collections.abc import Iterable

import pytest

from catga.abc import Departure, Sighting
from catga.membership import View
from catga.membership.hearing import HearingClock
from catga.membership.lost import KEPT, MAX_LOST, Lost
from catga.membership.probe import Found, Prober
from catga.membership.reports import PATIENCE
from catga.membership.witnesses import Question
from catga.node import WHOLE_LIFE, LeftReason, NodeInfo
from catga.testing import ManualClock


class Observer:
    """The member ``n0`` of `size`, and a bus on which some inboxes have no listener.

    Attributes:
        absent: on whose inboxes nobody listens.
        mute: who does not answer, though somebody listens.
    """

    def __init__(self, size: int, *, absent: Iterable[int] = (), forgeable: bool = False, settle: float = 0.0) -> None:
        self.clock = ManualClock()
        self.hearing = HearingClock(self.clock, 3.0)
        self.view = View(ttl=120.0, clock=self.clock, hearing=self.hearing, on_change=lambda _: None)
        self.prober = Prober(
            "n0", self.view, self.hearing, ttl=120.0, settle=settle, forgeable=forgeable, random=random.Random(1)
        )
        self.absent = {f"n{number}" for number in absent}
        self.mute: set[str] = set()
        self.deaths: list[str] = []
        self.questions: list[Question] = []
        for number in range(size):
            self.view.observe(Sighting(NodeInfo(node_id=f"n{number}", incarnation=1, sequence=7)))
            self.prober.joined(f"n{number}")

    def passes(self, seconds: int) -> None:
        """Ticks, and what comes of the pings."""
        for _ in range(seconds):
            self.clock.advance(1.0)
            self.hearing.heard()
            for node in self.prober.tick():
                self.ping(node)

    def ping(self, node: NodeInfo) -> None:
        if node.node_id in self.absent:
            self.act_on(self.prober.unlistened(node.node_id, 1, 0.0))
        elif node.node_id not in self.mute:
            self.hearing.heard()
            if self.view.alive(node.node_id, 1):
                self.prober.alive(node.node_id)

    def act_on(self, found: Found) -> None:
        self.questions += found.questions
        if found.death is not None:
            assert found.death.sequence == 7
            self.deaths.append(found.death.node_id)
            self.view.observe(found.death)
            self.prober.left(found.death.node_id, lost=True)
        for node in found.pings:
            self.ping(node)

    def told(self, number: int, age: float = 0.0) -> bool:
        """Another member says that this one crashed. Returns whether that is believed."""
        end = Departure(f"n{number}", 1, LeftReason.CRASHED, age, 7)
        if self.prober.doubts(end):
            return False
        self.view.observe(end)
        self.prober.left(end.node_id, lost=True)
        return True


@pytest.mark.parametrize(("size", "absent"), [(3, 1), (4, 1), (10, 1), (10, 2), (100, 3)])
def test_a_few_deaths_among_many_nodes_are_known_within_two_rounds(size: int, absent: int) -> None:
    observer = Observer(size, absent=range(1, 1 + absent))
    observer.passes(2 * size)
    assert set(observer.deaths) == observer.absent


def test_reports_that_waited_to_be_read_are_no_death() -> None:
    """What found nobody had left at one time: a handler held the loop between the first report and the second."""
    observer = Observer(10)
    assert observer.prober.unlistened("n1", 1, 0.0).death is None
    for age in (2.0, 1.2, math.inf):
        observer.clock.advance(1.0)
        observer.hearing.heard()
        assert observer.prober.unlistened("n1", 1, age).death is None
    assert observer.prober.unlistened("n1", 1, 2.0).death is not None


def test_a_former_life_is_asked_twice_whenever_the_answers_are_read() -> None:
    observer = Observer(3)
    observer.clock.advance(1.0)
    observer.hearing.heard()
    assert not observer.prober.is_former_life(9, 0.0)
    observer.clock.advance(1.5)
    observer.hearing.heard()
    assert not observer.prober.is_former_life(9, 1.5)
    assert observer.prober.is_former_life(9, 0.5)


@pytest.mark.parametrize(("size", "absent"), [(4, 2), (5, 2), (6, 2), (10, 5), (3, 2), (100, 50), (200, 150)])
def test_a_third_of_the_nodes_absent_at_one_time_is_a_split_at_first(size: int, absent: int) -> None:
    observer = Observer(size, absent=range(1, 1 + absent))
    observer.passes(int(PATIENCE))
    assert observer.deaths == []
    assert set(observer.view.suspects()) & observer.absent


@pytest.mark.parametrize(("size", "absent"), [(4, 2), (5, 2), (10, 5), (3, 2)])
def test_a_mass_death_is_known_in_the_end(size: int, absent: int) -> None:
    observer = Observer(size, absent=range(1, 1 + absent))
    observer.passes(size + int(PATIENCE) + 3)
    assert set(observer.deaths) == observer.absent


def test_who_comes_back_from_a_split_first_does_not_make_the_others_die() -> None:
    """They may be a moment later: they are asked twice anew."""
    observer = Observer(5, absent=[3, 4])
    observer.passes(6)
    observer.absent.remove("n3")
    observer.passes(1)
    observer.absent.clear()
    observer.passes(5)
    assert (observer.deaths, observer.view.suspects()) == ([], [])


def test_what_others_tell_of_many_deaths_is_a_report_only_and_of_one_is_believed() -> None:
    observer = Observer(6)
    observer.passes(10)
    observer.clock.advance(1.0)  # nothing was heard of them for longer than a moment
    observer.hearing.heard()
    assert [observer.told(1), observer.told(2), observer.told(3)] == [True, False, False]
    assert set(observer.view.suspects()) == {"n2", "n3"}
    observer.passes(8)  # both answer
    assert observer.view.suspects() == []


def test_the_news_of_a_death_is_doubted_if_the_node_was_heard_since() -> None:
    observer = Observer(4)
    observer.passes(4)
    observer.ping(NodeInfo(node_id="n1", incarnation=1))
    assert not observer.told(1)
    observer.passes(1)
    assert not observer.told(2, age=30.0)  # elsewhere it was buried long before
    assert len(observer.view.nodes()) == 4


def test_the_bounce_of_no_member_proves_nothing() -> None:
    observer = Observer(3)
    for _ in range(3):
        assert observer.prober.unlistened("stranger", 1, 0.0) == Found()
        assert observer.prober.unlistened("n1", 99, 0.0) == Found()
        observer.passes(1)
    assert observer.view.buried("stranger") is None


# -- witnesses ----------------------------------------------------------------------------------------


def test_bounces_that_may_be_forged_are_a_death_only_by_the_word_of_another_member() -> None:
    observer = Observer(3, absent=[1], forgeable=True)
    observer.passes(6)
    assert observer.deaths == []
    question = observer.questions[-1]
    assert (question.witness.node_id, question.target.node_id) == ("n2", "n1")
    observer.act_on(observer.prober.told("n2", question.nonce, 0.0, bounces_work=True))  # it has answered there
    assert observer.deaths == []
    (again,) = observer.prober.questions(bounces_work=True)
    observer.act_on(observer.prober.told("n2", again.nonce, 3.0, bounces_work=True))
    assert observer.deaths == ["n1"]


def test_with_nobody_else_to_ask_the_bounces_are_enough() -> None:
    observer = Observer(2, absent=[1], forgeable=True)
    observer.passes(4)
    assert observer.deaths == ["n1"]


def test_a_silent_member_is_told_of_when_another_does_not_hear_it_either() -> None:
    observer = Observer(4)
    observer.mute = {"n1"}
    observer.passes(9)
    questions = observer.prober.questions(bounces_work=True)
    assert {question.target.node_id for question in questions} == {"n1"}
    answers = [
        observer.prober.told(q.witness.node_id, q.nonce, age, bounces_work=True)
        for q, age in zip(questions, (0.0, 9.0), strict=True)
    ]
    assert [found.silent and found.silent.node_id for found in answers] == [None, "n1"]
    assert observer.prober.told("n2", 12345, 9.0, bounces_work=True) == Found()  # nobody asked
    observer.passes(20)
    assert [observer.prober.questions(bounces_work=True) for _ in range(3)][-1] == []  # and it goes on living
    assert len(observer.view.nodes()) == 4


def test_where_the_broker_does_not_tell_who_listens_a_member_silent_to_three_has_left() -> None:
    observer = Observer(4)
    observer.mute = {"n1"}
    for _ in range(20):
        observer.passes(1)
        for question in observer.prober.questions(bounces_work=False):
            silence = observer.view.silence("n1")
            found = observer.prober.told(question.witness.node_id, question.nonce, silence, bounces_work=False)
            if found.death is not None:
                assert found.death == Departure("n1", 1, LeftReason.UNREACHABLE, sequence=7)
                assert silence >= 8.0
                return
    raise AssertionError("it never left")


def test_an_idle_member_must_be_asked_in_vain_for_as_long() -> None:
    """With many members, not to have heard of one for 7 s is usual."""
    observer = Observer(4)
    for _ in range(7):
        observer.clock.advance(1.0)
        observer.hearing.heard()
    observer.mute = {"n1"}
    for second in range(20):
        observer.passes(1)
        for question in observer.prober.questions(bounces_work=False):
            found = observer.prober.told(question.witness.node_id, question.nonce, 30.0, bounces_work=False)
            if found.death is not None:
                assert second >= 7
                return
    raise AssertionError("it never left")


def test_one_witness_that_hears_it_keeps_a_silent_member() -> None:
    observer = Observer(4)
    observer.mute = {"n1"}
    for _ in range(30):
        observer.passes(1)
        for question in observer.prober.questions(bounces_work=False):
            age = 0.0 if question.witness.node_id == "n2" else 30.0
            found = observer.prober.told(question.witness.node_id, question.nonce, age, bounces_work=False)
            assert found.death is None


# -- the lost -----------------------------------------------------------------------------------------


def test_the_lost_are_asked_in_turn_until_they_are_found_or_a_day_is_over() -> None:
    clock = ManualClock()
    lost = Lost(clock, random.Random(1))
    assert lost.next() is None
    for number in range(4):
        lost.add(f"n{number}", 5)
    assert [sorted(filter(None, [lost.next() for _ in range(4)])) for _ in range(2)] == [
        [(f"n{i}", 5) for i in range(4)]
    ] * 2
    lost.found("n0", 5)
    lost.found("n1", 6)
    lost.found("n2", 4)  # a former life of it
    assert {lost.next() for _ in range(4)} == {("n2", 5), ("n3", 5)}
    assert (("n2", 5) in lost, ("n2", 4) in lost, ("n0", 5) in lost) == (True, False, False)
    clock.advance(KEPT + 1)
    assert (lost.next(), len(lost)) == (None, 0)


def test_the_lost_are_bounded_and_the_oldest_make_room() -> None:
    lost = Lost(ManualClock(), random.Random(1))
    for number in range(MAX_LOST + 5):
        lost.add(f"n{number}", WHOLE_LIFE)
    assert len(lost) == MAX_LOST
    assert ("n4", WHOLE_LIFE) not in lost


def test_nobody_else_is_asked_about_the_absent_while_many_may_be_on_their_way_back() -> None:
    """After the broker's restart each node would ask for each that is not back yet."""
    observer = Observer(100, absent=range(1, 100), settle=10.0)
    observer.prober.link_up()
    pinged = observer.prober.tick()
    observer.clock.advance(3.0)
    observer.hearing.heard()
    for node in pinged:
        assert observer.prober.unlistened(node.node_id, 1, 0.0).pings == ()
    assert len(observer.prober.tick()) <= 2
    assert observer.prober.questions(bounces_work=True) == []
