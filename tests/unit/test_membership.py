"""What a member tells others of its own id: when it leaves, and when another process took it."""

import random
from collections.abc import Callable, Iterable, Sequence

import msgspec
import pytest

from catga.abc import Departure, Observation, Sighting
from catga.membership import Membership, MembershipSettings
from catga.membership.witnesses import Question
from catga.node import LeftReason, NodeChangeEvent, NodeInfo
from catga.testing import ManualClock

ME = NodeInfo(node_id="me", incarnation=5)


class Bus:
    """A `NodeDiscovery` by which nobody is reached. It keeps what joiners would be told."""

    def __init__(self) -> None:
        self.observe: Callable[[Observation], None] = lambda _: None
        self.recall: Callable[[], Iterable[Observation]] = tuple
        self.at_farewell: list[Observation] = []

    async def watch(
        self, observe: Callable[[Observation], None], recall: Callable[[], Iterable[Observation]] | None
    ) -> None:
        assert recall is not None
        self.observe, self.recall = observe, recall

    async def register(self, node: NodeInfo) -> None: ...

    async def heartbeat(self, node: NodeInfo) -> None: ...

    async def unregister(self, end: Departure) -> None:
        self.at_farewell = list(self.recall())

    async def get_nodes(self) -> Sequence[Observation]:
        return []

    async def aclose(self) -> None: ...


class Nobody:
    """A `Host` that does nothing."""

    def ping(self, node: NodeInfo, /) -> None: ...

    def ask(self, question: Question, /) -> None: ...

    def tell(self, reply_to: str, nonce: int, age: float, /) -> None: ...

    def introduce(self, node_id: str, incarnation: int, /) -> None: ...

    def bounces_work(self) -> bool:
        return True

    def on_unreachable(self, node: NodeInfo, /) -> None: ...

    def on_change(self, event: NodeChangeEvent, /) -> None: ...

    def on_fenced(self, incarnation: int, /) -> None: ...

    async def on_rejoin(self, incarnation: int, /) -> None: ...


@pytest.fixture
async def bus() -> Bus:
    return Bus()


@pytest.fixture
async def member(bus: Bus) -> Membership:
    """One that has joined."""
    member = Membership(
        bus, ME, Nobody(), MembershipSettings(), load=float, clock=ManualClock(), random=random.Random(1)
    )
    await member.sync()
    await member.join()
    return member


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
