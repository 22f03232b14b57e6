"""What a member tells others of its own id: when it leaves, and when another process took it."""

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence

import msgspec
import pytest

from catga.abc import Departure, Observation, Sighting
from catga.errors import ClusterError
from catga.membership import Membership, MembershipSettings
from catga.membership.membership import UNKNOWN
from catga.membership.witnesses import Question
from catga.node import LeftReason, NodeChangeEvent, NodeInfo
from catga.testing import ManualClock
from catga.testing.waiting import eventually

ME = NodeInfo(node_id="me", incarnation=5)


class Bus:
    """A `NodeDiscovery` by which nobody is reached. It keeps what joiners would be told."""

    def __init__(self) -> None:
        self.observe: Callable[[Observation], None] = lambda _: None
        self.recall: Callable[[], Iterable[Observation]] = tuple
        self.at_farewell: list[Observation] = []
        self.registered: list[int] = []
        self.refuses = False
        self.is_frozen = False

    async def watch(
        self, observe: Callable[[Observation], None], recall: Callable[[], Iterable[Observation]] | None
    ) -> None:
        assert recall is not None
        self.observe, self.recall = observe, recall

    async def register(self, node: NodeInfo) -> None:
        if self.is_frozen:
            await asyncio.sleep(3600)
        if self.refuses:
            raise ClusterError("forbidden")
        self.registered.append(node.sequence)

    async def heartbeat(self, node: NodeInfo) -> None: ...

    async def unregister(self, end: Departure) -> None:
        self.at_farewell = list(self.recall())

    async def get_nodes(self) -> Sequence[Observation]:
        return []

    async def aclose(self) -> None: ...


class Nobody:
    """A `Host` that does nothing, and notes whom it was to ping, and what it was to answer."""

    def __init__(self) -> None:
        self.pinged: list[str] = []
        self.told: dict[int, float] = {}

    def ping(self, node: NodeInfo, /) -> None:
        self.pinged.append(node.node_id)

    def ask(self, question: Question, /) -> None: ...

    def tell(self, reply_to: str, nonce: int, age: float, /) -> None:
        self.told[nonce] = age

    def introduce(self, node_id: str, incarnation: int, /) -> None: ...

    def bounces_work(self) -> bool:
        return True

    def test_bounces(self) -> None: ...

    def bounces(self) -> int:
        return 0

    def refusals(self) -> int:
        return 0

    def on_unreachable(self, node: NodeInfo, /) -> None: ...

    def on_change(self, event: NodeChangeEvent, /) -> None: ...

    def on_fenced(self, incarnation: int, /) -> None: ...

    async def on_rejoin(self, incarnation: int, /) -> None: ...


@pytest.fixture
async def bus() -> Bus:
    return Bus()


@pytest.fixture
async def host() -> Nobody:
    return Nobody()


@pytest.fixture
async def member(bus: Bus, host: Nobody) -> Membership:
    """One that has joined."""
    member = Membership(bus, ME, host, MembershipSettings(), load=float, clock=ManualClock(), random=random.Random(1))
    await member.sync()
    await member.join()
    return member


async def test_an_announcement_that_was_refused_is_made_again_as_it_is_by_then(bus: Bus, member: Membership) -> None:
    bus.refuses = True
    for endpoint in ("a", "b"):
        with pytest.raises(ClusterError):
            await member.update(endpoint=endpoint)
    await member._probe()
    bus.refuses = False
    await asyncio.sleep(0)
    for _ in range(3):
        await member._probe()
        await asyncio.sleep(0)
    assert bus.registered == [0, 2]
    await member.leave()


async def test_an_announcement_that_nobody_waits_for_any_more_is_made_again(bus: Bus, member: Membership) -> None:
    bus.is_frozen = True
    update = asyncio.create_task(member.update(endpoint="a"))
    await asyncio.sleep(0)
    bus.is_frozen = False
    await member._probe()  # it is still under way
    update.cancel()
    await asyncio.wait([update])
    assert bus.registered == [0]
    await member._probe()
    await eventually(lambda: bus.registered == [0, 1])
    await member.leave()


async def test_an_older_announcement_that_ends_later_hides_no_newer_one(bus: Bus, member: Membership) -> None:
    first = asyncio.create_task(member._register(member.me))
    bus.refuses = True
    with pytest.raises(ClusterError):
        await member.update(endpoint="a")
    bus.refuses = False
    await asyncio.wait([first])
    await member._probe()
    await eventually(lambda: bus.registered[-1] == 1)
    await member.leave()


@pytest.mark.parametrize("end", ["fenced", "left", "without a link"])
async def test_who_may_not_announce_itself_does_not_do_so_again(bus: Bus, member: Membership, end: str) -> None:
    bus.refuses = True
    with pytest.raises(ClusterError):
        await member.update(endpoint="a")
    if end == "fenced":
        member.own.replaced(9)
    elif end == "left":
        await member.leave()
    else:
        member.link_down()
    bus.refuses = False
    await member._probe()
    await asyncio.sleep(0)
    assert bus.registered == [0]
    await member.leave()


async def test_who_leaves_tells_joiners_so_before_it_has_left(bus: Bus, member: Membership) -> None:
    assert list(bus.recall()) == [Sighting(ME)]
    await member.leave()
    assert bus.at_farewell == [Departure("me", 5, LeftReason.DRAINED)]


async def test_who_is_fenced_tells_joiners_who_lives_though_it_heard_of_itself_since(
    bus: Bus, member: Membership
) -> None:
    rival = msgspec.structs.replace(ME, incarnation=9)
    bus.observe(Sighting(rival))
    bus.observe(Sighting(ME))
    member.own.replaced(9)
    assert Sighting(rival) in list(bus.recall())
    await member.leave()


async def test_a_witness_tells_of_whom_it_knows_and_else_nothing_or_that_it_does_not_know(
    bus: Bus, host: Nobody, member: Membership
) -> None:
    """Its word counts for a death: that it does not know a node yet must not be taken for the node's silence."""
    for node_id, age in (("lives", 0.0), ("is silent", 2.0), ("leaves", 2.0)):
        bus.observe(Sighting(NodeInfo(node_id=node_id, incarnation=7), age))
    about = [("stranger", 7), ("lives", 6), ("lives", 8), ("me", 5), ("lives", 7), ("is silent", 7), ("leaves", 7)]
    for nonce, (node_id, incarnation) in enumerate(about):
        member.asked("reply", nonce, node_id, incarnation)
    await eventually(lambda: "leaves" in host.pinged)
    bus.observe(Departure("leaves", 7, LeftReason.DRAINED))
    await eventually(lambda: len(host.told) == 4)
    assert host.told == {3: 0.0, 4: 0.0, 5: 2.0, 6: UNKNOWN}
    await member.leave()


async def test_a_node_that_gave_up_its_inbox_does_not_take_itself_for_a_former_life(
    host: Nobody, member: Membership, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It leaves: its pings to itself find nobody any more."""
    monkeypatch.setattr(member.prober, "is_former_life", lambda *_: True)
    member.unlistened("me", 5, 0.0)
    await asyncio.sleep(0)
    assert member.me.incarnation == 5
    await member.leave()


async def test_an_answer_about_a_member_that_was_heard_of_since_is_void(
    bus: Bus, host: Nobody, member: Membership
) -> None:
    for node_id in ("target", "witness"):
        bus.observe(Sighting(NodeInfo(node_id=node_id, incarnation=7)))
    witnesses, target = member.prober._witnesses, member.view.get("target")
    assert target is not None
    (question,) = witnesses.ask(target)
    witnesses.heard("target")
    assert witnesses.told("witness", question.nonce, 9.0) is None
    assert not witnesses.agree(target, 9.0)
    await member.leave()
