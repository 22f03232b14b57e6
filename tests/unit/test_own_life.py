"""What a node does when others do not know it, or believe that it is dead."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from catga.abc import Departure
from catga.errors import ClusterError
from catga.membership import View
from catga.membership.chores import Chores
from catga.membership.hearing import HearingClock
from catga.membership.own import INTRODUCTION, RIVAL_PINGS, OwnLife
from catga.node import NEWEST, OUTGROWABLE, WHOLE_LIFE, LeftReason, NodeInfo
from catga.testing import ManualClock
from catga.testing.waiting import eventually

ME = NodeInfo(node_id="me", incarnation=5, sequence=3)


class Life:
    """A node that has joined, and what it announced."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.announced: list[NodeInfo] = []
        self.moved_to: list[int] = []
        self.pinged: list[int] = []
        self.told_who_listens = True
        self.bounced = 7
        self.refused = 3
        self.opens: Callable[[], Awaitable[object]] = lambda: asyncio.sleep(0)
        chance = random.Random(1)
        self.chores = Chores("me", chance)
        self.hearing = hearing = HearingClock(self.clock, 3.0)
        view = View(ttl=120.0, clock=self.clock, hearing=hearing, on_change=lambda _: None)
        self.own = OwnLife(
            ME,
            self,
            view,
            hearing,
            register=self.register,
            clock=self.clock,
            chores=self.chores,
            interval=0.01,
            random=chance,
        )
        self.own.joined = True

    async def register(self, record: NodeInfo) -> None:
        self.announced.append(record)

    def ping(self, node: NodeInfo, /) -> None:
        self.pinged.append(node.incarnation)

    def bounces_work(self) -> bool:
        return self.told_who_listens

    def test_bounces(self) -> None:
        if self.told_who_listens:
            self.bounced += 1

    def bounces(self) -> int:
        return self.bounced

    def refusals(self) -> int:
        return self.refused

    def on_fenced(self, incarnation: int, /) -> None: ...

    async def on_rejoin(self, incarnation: int, /) -> None:
        self.moved_to.append(incarnation)
        await self.opens()

    async def settled(self) -> None:
        """Return when nothing is under way any more."""
        await eventually(lambda: not self.chores._tasks)


@pytest.fixture
async def life() -> AsyncIterator[Life]:
    life = Life()
    yield life
    await life.chores.stop()


async def test_whoever_was_buried_alive_lives_on_in_the_same_incarnation(life: Life) -> None:
    """A new one would end the calls of those who never lost it."""
    life.own.heard_of_itself(5, 3)
    await eventually(lambda: life.announced)
    life.own.heard_end(Departure("me", 5, LeftReason.EXPIRED, sequence=9))
    await eventually(lambda: len(life.announced) == 2)
    assert [record.version for record in life.announced] == [(5, 4), (5, 10)]
    assert life.moved_to == []


async def test_an_end_that_was_refuted_before_is_no_news(life: Life) -> None:
    life.own.heard_of_itself(5, 2)
    life.own.heard_of_itself(5, -1)
    life.own.heard_end(Departure("me", 5, LeftReason.CRASHED, sequence=2))
    life.own.heard_end(Departure("me", 4, LeftReason.CRASHED))
    await asyncio.sleep(0)
    assert life.own.record == ME


@pytest.mark.parametrize("reason", LeftReason)
async def test_an_end_of_the_whole_life_needs_a_new_one(life: Life, reason: LeftReason) -> None:
    life.own.heard_end(Departure("me", 5, reason, sequence=WHOLE_LIFE))
    await eventually(lambda: life.announced)
    (record,) = life.announced
    assert record.incarnation > 5
    assert life.moved_to == [record.incarnation]


async def test_claims_by_the_thousand_are_refuted_together(life: Life) -> None:
    for sequence in range(1000):
        life.own.heard_of_itself(5, sequence)
    await eventually(lambda: life.announced)
    assert [record.sequence for record in life.announced] == [1000]


async def test_a_node_that_others_do_not_know_introduces_itself_once_for_all_of_them(life: Life) -> None:
    for known in (0, 4, 0):
        life.own.heard_of_itself(known, -1)
    await eventually(lambda: life.announced)
    life.own.heard_of_itself(0, -1)  # it waits, as that was a moment ago
    await asyncio.sleep(0)
    assert life.announced == [ME]
    life.clock.advance(INTRODUCTION)


@pytest.mark.parametrize("joined", [True, False])
async def test_an_end_in_a_life_that_could_not_be_outgrown_is_believed_by_nobody(life: Life, joined: bool) -> None:
    life.own.joined = joined
    for incarnation in (OUTGROWABLE, NEWEST - 1):
        life.own.heard_end(Departure("me", incarnation, LeftReason.CRASHED))
    assert (life.own.record, life.pinged) == (ME, [])
    life.own.heard_end(Departure("me", OUTGROWABLE - 1, LeftReason.CRASHED))
    assert (life.pinged == [OUTGROWABLE - 1]) if joined else (life.own.record.incarnation >= OUTGROWABLE)


async def test_a_member_that_missed_a_refutation_is_told_again(life: Life) -> None:
    """It has buried an older record of this life, and goes on doing so until it hears of the newer one."""
    life.own.heard_of_itself(5, 2)
    await eventually(lambda: life.announced == [ME])


async def test_a_joiner_announces_itself_once_more(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first time may have been lost: a subscription of others that is not back yet, a split."""
    monkeypatch.setattr("catga.membership.own.INTRODUCED_AGAIN", (0.0, 0.0))
    life.own.introduce(later=True)
    await eventually(lambda: life.announced == [ME])


@pytest.mark.parametrize("bounces", [True, False])
async def test_a_rival_that_says_nothing_fences_a_node_only_if_the_broker_tells_who_listens(
    life: Life, bounces: bool
) -> None:
    life.told_who_listens = bounces
    life.own.outgrown(9)
    for _ in range(RIVAL_PINGS):
        life.hearing.heard()
        life.own.ask_rival()
    assert life.pinged == [9] * RIVAL_PINGS
    assert life.own.fenced == bounces
    if not bounces:
        await eventually(lambda: life.announced)
        assert life.own.record.incarnation > 9


async def test_a_rival_that_says_nothing_fences_a_node_only_by_a_fresh_word_of_the_broker(life: Life) -> None:
    """A wildcard listener came since the last test: nobody knows yet that all pings find a listener now."""
    life.test_bounces = lambda: None  # type: ignore[method-assign]
    life.own.outgrown(9)
    for _ in range(3 * RIVAL_PINGS):
        life.hearing.heard()
        life.own.ask_rival()
    assert not life.own.fenced
    life.told_who_listens = False
    life.own.ask_rival()
    await eventually(lambda: life.announced)
    assert life.own.record.incarnation > 9


async def test_a_rival_that_the_broker_does_not_let_be_asked_fences_nobody(life: Life) -> None:
    """It refuses the pings, and perhaps nothing else: the canary bounces."""
    life.own.outgrown(9)
    for _ in range(10 * RIVAL_PINGS):
        life.hearing.heard()
        life.refused += 1
        life.own.ask_rival()
    assert not life.own.fenced
    for _ in range(RIVAL_PINGS - 1):  # it lets them through, and the first has to be asked again
        life.hearing.heard()
        life.own.ask_rival()
    assert not life.own.fenced
    life.own.rival_unlistened(9, certain=True)
    await eventually(lambda: life.announced)
    assert life.own.record.incarnation > 9


async def test_a_node_that_is_fenced_before_it_could_refute_says_nothing(life: Life) -> None:
    life.own.heard_of_itself(5, 3)
    life.own.replaced(9)
    await life.settled()
    assert life.announced == []


async def test_a_rival_is_not_taken_for_a_live_one_while_nothing_is_heard(life: Life) -> None:
    """The broker is frozen: neither an answer nor a bounce can come."""
    life.own.outgrown(9)
    for _ in range(10 * RIVAL_PINGS):
        life.own.ask_rival()
    assert not life.own.fenced


async def test_a_node_goes_beyond_its_former_lives_once_at_a_time(life: Life) -> None:
    """Two inboxes would be opened, and the one that is left open looks like another process."""
    is_open = asyncio.Event()
    life.opens = is_open.wait
    for _ in range(2):
        life.own.rival_unlistened(NEWEST - 1, certain=True)
        await asyncio.sleep(0)
    is_open.set()
    await eventually(lambda: life.announced)
    assert life.moved_to == [life.own.record.incarnation]


async def test_an_inbox_that_cannot_be_opened_is_tried_again(life: Life) -> None:
    """Else the node would live on without the others: its old life has ended."""
    failures = [ClusterError("no link"), ClusterError("no link")]

    async def fail_twice() -> None:
        if failures:
            raise failures.pop()

    life.opens = fail_twice
    life.own.rival_unlistened(9, certain=True)
    await eventually(lambda: life.announced)
    assert life.moved_to == [life.own.record.incarnation] * 3


async def test_a_node_does_not_take_its_own_next_life_for_a_rival(life: Life) -> None:
    """While the new inbox is opened, a ping to itself comes back with the new incarnation."""
    is_open = asyncio.Event()
    life.opens = is_open.wait
    life.own.rival_unlistened(9, certain=True)
    await asyncio.sleep(0)
    life.own.outgrown(life.moved_to[0])
    for _ in range(2 * RIVAL_PINGS):
        life.hearing.heard()
        life.own.ask_rival()
    is_open.set()
    await eventually(lambda: life.announced)
    assert not life.own.fenced


async def test_what_a_rival_was_asked_over_a_link_that_is_lost_since_does_not_count(life: Life) -> None:
    life.own.outgrown(9)
    for _ in range(2 * RIVAL_PINGS):
        life.own.link_down()
        life.hearing.heard()
        life.own.ask_rival()
    assert not life.own.fenced


async def test_a_node_that_is_fenced_while_it_rejoins_does_not_come_back(life: Life) -> None:
    is_open = asyncio.Event()
    life.opens = is_open.wait
    life.own.rival_unlistened(9, certain=True)
    await asyncio.sleep(0)
    life.own.replaced(11)
    is_open.set()
    await life.settled()
    assert life.own.fenced
    assert life.announced == []


async def test_a_life_that_could_not_be_outgrown_is_left_behind(life: Life) -> None:
    life.own.rival_unlistened(NEWEST - 1, certain=True)
    await eventually(lambda: life.announced)
    assert 5 < life.announced[0].incarnation < NEWEST - 1
