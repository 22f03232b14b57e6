"""Who waits for a place, and who is told at once that it would wait too long."""

import asyncio
import math
import uuid
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catga import Mediator, Request, RoundRobin, add_cluster
from catga.errors import OverloadedError
from catga.mediator.nested import MAX_DEPTH
from catga.rpc.patience import PACE, patience
from catga.rpc.places import Place, Places
from catga.testing import ManualClock, eventually


@dataclass(frozen=True)
class Step(Request[str]):
    pass


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    made = ManualClock()
    monkeypatch.setattr("catga.rpc.patience.perf_counter", made)
    return made


class Line:
    """A node all of whose places are taken, and where a call has waited in vain."""

    def __init__(self, clock: ManualClock, limit: int = 1, max_waiting: int = 10_000) -> None:
        self.clock = clock
        self.places = Places(limit, max_waiting, lambda _: None)
        self.waiting: list[Place] = []
        for _ in range(limit):
            assert self.places.occupy(0)

    def come(self, count: int, depth: int = 0) -> None:
        for _ in range(count):
            place = Place(asyncio.get_running_loop().create_future(), math.inf, depth)
            self.waiting.append(place)
            self.places.wait(place)
        self.places.overdue()

    def passes(self, count: int, each: float = 1.0) -> None:
        """The calls take `each` seconds: so many times all that run end together."""
        for _ in range(count):
            self.clock.advance(each)
            for _ in range(self.places.limit):
                self.places.free()

    def refuses(self, patience: float, depth: int = 0) -> bool:
        return self.places.is_full(depth, patience)


def test_a_call_waits_no_longer_than_leaves_time_to_run_or_to_go_elsewhere() -> None:
    assert patience(10.0, runs=0.0) == 8.0
    assert patience(10.0, runs=1.0) == 7.0
    assert patience(10.0, runs=60.0) == pytest.approx(3.0)  # those that took so long may have been others
    assert patience(math.inf, runs=1.0) == math.inf


async def test_a_call_is_refused_that_would_wait_for_too_long(clock: ManualClock) -> None:
    line = Line(clock)
    line.come(40)
    line.passes(30)  # ten are left, of a second each
    assert [line.refuses(seconds) for seconds in (10.0, 10.9, 11.1, 30.0)] == [True, True, False, False]
    line.come(10)
    assert [line.refuses(seconds) for seconds in (20.9, 21.1)] == [True, False]
    line.passes(20)
    assert not line.refuses(0.1)  # nobody waits
    line.come(25)
    line.passes(24)
    assert not line.refuses(0.1)  # what was before is forgotten


async def test_nobody_is_refused_for_time_until_a_call_has_waited_in_vain(clock: ManualClock) -> None:
    """Calls of a few milliseconds behind some of seconds look slower than they are."""
    line = Line(clock)
    line.come(40)
    line.places._is_slow = False
    line.passes(30)
    assert not line.refuses(1.0)
    line.places.overdue()
    assert line.refuses(1.0)


async def test_a_line_whose_pace_is_not_known_takes_everybody(clock: ManualClock) -> None:
    line = Line(clock)
    line.come(2 * (PACE + 4) + 2)
    clock.advance(1000.0)
    assert not line.refuses(1.0)
    line.passes(2 * (PACE + 4))
    assert not line.refuses(1.0)
    line.passes(1)
    assert line.refuses(1.0)


@pytest.mark.parametrize("before", range(40))
async def test_one_long_call_says_nothing_of_those_behind_it(clock: ManualClock, before: int) -> None:
    """Nor does a process that is stopped for a while."""
    line = Line(clock)
    line.come(100)
    line.passes(before, 0.01)
    line.passes(1, 5.0)
    while line.places.waiting:
        assert not line.refuses(2.0)
        line.passes(1, 0.01)


async def test_who_gives_up_before_its_turn_takes_no_time(clock: ManualClock) -> None:
    line, now = Line(clock), asyncio.get_running_loop().time()
    line.come(30)
    line.passes(25)
    for _ in range(400):
        line.places.wait(Place(asyncio.get_running_loop().create_future(), now + 20.0, 0))
    assert not line.refuses(21.0)
    assert line.refuses(19.0)


async def test_now_and_then_a_node_has_somebody_wait_and_is_not_slow_for_that(clock: ManualClock) -> None:
    line = Line(clock)
    for _ in range(100):
        line.come(2)
        line.passes(2, 0.01)
        clock.advance(60.0)
    line.come(1)
    assert not line.refuses(0.1)


async def test_calls_that_run_together_end_together(clock: ManualClock) -> None:
    line = Line(clock, limit=64)
    line.come(1000)
    for _ in range(32):
        clock.advance(0.001)
        line.places.free()
    clock.advance(0.7)
    assert not line.refuses(0.5)
    line.passes(10, 1.0)
    left = 1000 - 32 - 640
    assert line.refuses(left / 64 * 0.98)
    assert not line.refuses(left / 64 * 1.02)


async def test_a_call_that_a_handler_waits_for_is_not_refused_for_its_time(clock: ManualClock) -> None:
    line = Line(clock)
    line.come(60, depth=1)
    line.come(60)
    line.passes(60)
    assert line.refuses(1.0)
    assert not line.refuses(1.0, depth=1)
    assert line.refuses(math.inf, depth=MAX_DEPTH)


async def test_who_gives_up_leaves_the_others_in_their_order(clock: ManualClock) -> None:
    line = Line(clock)
    line.come(6)
    first, second, third, *_ = line.waiting
    assert line.places.withdraw(second)
    assert not line.places.withdraw(second)
    line.passes(2)
    begun = [place for place in line.waiting if place.granted.done()]
    assert begun == [first, third]
    assert line.places.waiting == 3


async def test_a_full_line_refuses_whatever_time_is_left(clock: ManualClock) -> None:
    line = Line(clock, max_waiting=5)
    line.come(5)
    assert line.refuses(math.inf)


@settings(max_examples=200)
@given(
    limit=st.integers(1, 20),
    each=st.floats(0.05, 2.0),
    every=st.floats(0.01, 0.3),
    waits=st.floats(1.0, 30.0),
)
def test_who_is_refused_for_its_time_would_have_waited_too_long(
    limit: int, each: float, every: float, waits: float
) -> None:
    """One call comes `every` so many seconds, takes `each`, and may wait for `waits`. Those that are refused would have
    waited longer, and those that are not begin soon after."""

    async def play() -> None:
        loop = asyncio.get_running_loop()
        clock = ManualClock()
        patch.setattr("catga.rpc.patience.perf_counter", clock)
        places = Places(limit, 10_000, lambda _: None)
        running: list[float] = []  # when they end
        waiting: dict[Place, tuple[float, bool]] = {}  # since when, and whether the pace was known
        for _ in range(600):
            clock.advance(every)
            while running and running[0] <= clock():
                ended = running.pop(0)
                places.free()
                for place in [place for place in waiting if place.granted.done()]:
                    came, is_known = waiting.pop(place)
                    running.append(ended + each)
                    waited = ended - came
                    assert not is_known or waited <= waits + 2 * each
            ahead = len(waiting)
            is_known = places._pace.seconds > 0.0
            places.overdue()
            if places.is_full(0, waits):
                assert ahead + limit >= waits * limit / each * 0.99
            elif places.occupy(0):
                running.append(clock() + each)
            else:
                place = Place(loop.create_future(), math.inf, 0)
                waiting[place] = clock(), is_known
                places.wait(place)
            running.sort()

    with pytest.MonkeyPatch.context() as patch:
        asyncio.run(play())


async def test_a_slow_nodes_calls_go_elsewhere_while_there_is_time(clock: ManualClock) -> None:
    """Round robin does not look: the slow node tells. And who has nobody else is told at once."""
    url, gate = f"memory://{uuid.uuid4().hex}", asyncio.Semaphore(0)

    def app(name: str) -> Mediator:
        made = Mediator()

        @made.handler
        async def step(request: Step) -> str:
            if name == "slow":
                await gate.acquire()
            return name

        return made

    options: dict[str, Any] = {"max_concurrency": 1, "max_queue": 1000}
    async with (
        add_cluster(app("slow"), url, node_id="slow", **options) as slow,
        add_cluster(app("fast"), url, node_id="fast") as fast,
        add_cluster(Mediator(), url, node_id="caller", routing=RoundRobin()) as caller,
    ):
        server = slow._joined().peer.server
        calls = [asyncio.create_task(caller.send_to_node(Step(), "slow", timeout=600.0)) for _ in range(50)]
        await eventually(lambda: server.inflight == 50)
        for left in range(49, 19, -1):
            clock.advance(1.0)
            gate.release()
            await eventually(lambda left=left: server.inflight == left)
        answers = [await caller.send(Step(), timeout=5.0) for _ in range(4)]
        assert {answer.unwrap() for answer in answers} == {"fast"}
        assert server.refused == 2
        await fast.stop()
        alone = await caller.send(Step(), timeout=5.0)
        assert isinstance(alone.error, OverloadedError)
        assert alone.error.details["max_queue"] == 1000
        for _ in range(20):
            gate.release()
        assert {answer.unwrap() for answer in await asyncio.gather(*calls)} == {"slow"}
