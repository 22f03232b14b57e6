"""A request that comes again: which of its copies run, as a caller sees that speaks the wire by hand."""

import asyncio
import math
from collections.abc import AsyncIterator

import msgspec
import pytest

from catga import Mediator, Request, add_cluster, message
from catga.abc import BackendSettings, Outgoing
from catga.backends import open_backend
from catga.errors import ClosedError, Execution, MaybeExecutedError
from catga.rpc.answers import GENERATION, Answers, Seen
from catga.rpc.clock import boottime
from catga.rpc.server import MAX_REPEATS, MAX_TTL
from catga.rpc.subjects import inbox
from catga.rpc.wire import VERSION, Batch, Call, Cancel, Fault, Frame, Reply, decode_batch, encode_batch
from catga.testing import eventually

URL = "memory://dedup"
LIMIT = 50


class Book(msgspec.Struct, Request[int], frozen=True):
    number: int


@message(idempotent=True)
class Look(msgspec.Struct, Request[int], frozen=True):
    pass


class Desk:
    """A node that counts what it ran, and the hand-made caller."""

    def __init__(self) -> None:
        self.ran: list[int] = []
        self.answers: list[Frame] = []
        self.gate = asyncio.Event()
        self.gate.set()
        app = Mediator()

        @app.handler
        async def book(request: Book) -> int:
            self.ran.append(request.number)
            await self.gate.wait()
            return len(self.ran)

        @app.handler
        async def look(request: Look) -> int:
            return len(self.ran)

        self.node = add_cluster(app, URL, node_id="desk", max_concurrency=LIMIT, max_queue=0)
        self._transport = open_backend(BackendSettings(url=URL)).transport

    async def open(self) -> None:
        await self.node.start()
        await self._transport.start(self)
        await self._transport.subscribe("catga.reply.hand")

    async def close(self) -> None:
        self.gate.set()
        await self._transport.aclose()
        await self.node.stop()

    def say(
        self, *calls: Call | Cancel, oldest: int = 0, reply_to: str = "catga.reply.hand", clock: float = 0.0
    ) -> None:
        """One batch."""
        batch = Batch(VERSION, "hand", 1, 0.0, reply_to, list(calls), 0, oldest, clock)
        me = self.node.current_node
        self._transport.publish([Outgoing(inbox("catga", "desk", me.incarnation), encode_batch(batch), 1, False)])

    async def go_on(self, first: int, oldest: int | None = None) -> None:
        """Calls enough to push others out of the window. `oldest` of them all, else each ends those before it."""
        for start in range(first, first + 1500, LIMIT):
            calls = [a_call(number, number) for number in range(start, start + LIMIT)]
            self.say(*calls, oldest=start if oldest is None else oldest)
            await self.hear(LIMIT)

    async def hear(self, count: int) -> list[Frame]:
        """The next answers."""
        await eventually(lambda: len(self.answers) >= count)
        found, self.answers = self.answers, []
        return found

    def on_message(self, payload: bytes) -> None:
        self.answers += decode_batch(payload).frames

    def on_undeliverable(self, subject: str, token: int) -> None: ...
    def on_refused(self, subject: str, token: int, reason: str) -> None: ...
    def on_doubt(self, subject: str) -> None: ...
    def on_link(self, up: bool) -> None: ...
    def on_closed(self, reason: str) -> None: ...


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    desk = Desk()
    await desk.open()
    yield desk
    await desk.close()


def a_call(call_id: int, number: int, key: int = 0) -> Call:
    return Call(call_id, f"{__name__}.Book", 60_000, msgspec.msgpack.encode(Book(number)), key)


def value(frame: Frame) -> int:
    assert isinstance(frame, Reply)
    return msgspec.msgpack.decode(frame.body, type=int)


async def test_a_repeat_gets_the_first_answer(desk: Desk) -> None:
    desk.say(a_call(1, 10), oldest=1)
    assert [value(frame) for frame in await desk.hear(1)] == [1]
    desk.say(a_call(1, 10, key=1), a_call(2, 10, key=1), a_call(3, 11), oldest=1)
    assert {frame.id: value(frame) for frame in await desk.hear(3) if isinstance(frame, Reply)} == {1: 1, 2: 1, 3: 2}
    assert desk.ran == [10, 11]


async def test_a_repeat_that_overtakes_the_first_is_the_one_that_runs(desk: Desk) -> None:
    """On a link that is back it may, while the first waits in a buffer of the old one."""
    desk.say(a_call(1, 10, key=1), a_call(2, 11, key=2), oldest=1)
    await desk.hear(2)
    desk.say(a_call(1, 10), a_call(2, 11), oldest=1)
    await desk.hear(2)
    assert desk.ran == [10, 11]


async def test_a_call_that_comes_after_its_caller_had_the_answer_does_not_run(desk: Desk) -> None:
    desk.say(a_call(1, -1, key=1), oldest=1)
    await desk.hear(1)
    await desk.go_on(2)
    server = desk.node._node.peer.server  # type: ignore[union-attr]
    assert len(server.answers) < 600, "the window holds what may still be asked for, and little more"
    desk.say(a_call(1, -1), oldest=1)  # as its batch was packed, long ago
    await eventually(lambda: desk.node.counters["dropped_expired"] == 1)
    assert desk.ran.count(-1) == 1
    assert not desk.answers


async def test_an_answer_is_kept_as_long_as_its_newest_repeat_is_under_way(desk: Desk) -> None:
    desk.say(a_call(1, -1), oldest=1)
    await desk.hear(1)
    desk.say(a_call(4, -1, key=1), oldest=4)
    await desk.hear(1)
    await desk.go_on(5, oldest=4)
    desk.say(a_call(4, -1, key=1), oldest=4)
    assert [value(frame) for frame in await desk.hear(1)] == [1]
    assert desk.ran.count(-1) == 1


async def test_another_attempt_is_kept_under_the_key_of_the_first(desk: Desk) -> None:
    """The first was refused by another node, and has ended."""
    desk.say(a_call(20, -1, key=5), oldest=20)
    await desk.hear(1)
    await desk.go_on(21, oldest=20)
    desk.say(a_call(20, -1, key=5), oldest=20)
    await desk.hear(1)
    assert desk.ran.count(-1) == 1


async def test_a_first_attempt_that_others_overtook_runs_whatever_was_forgotten(desk: Desk) -> None:
    server = desk.node._node.peer.server  # type: ignore[union-attr]
    server.answers = Answers(entries=10)
    await desk.go_on(4, oldest=3)
    assert server.answers.look_up(("catga.reply.hand", 4)) is Seen.FORGOTTEN
    desk.say(a_call(3, -1), oldest=3)
    assert isinstance((await desk.hear(1))[0], Reply)
    desk.say(a_call(2000, -2, key=2), oldest=3)  # refused elsewhere: not a repeat of what was forgotten
    assert isinstance((await desk.hear(1))[0], Reply)
    desk.say(a_call(4, 4, key=4), oldest=3)
    [frame] = await desk.hear(1)
    assert isinstance(frame, Fault)
    assert frame.code == MaybeExecutedError.code
    assert desk.ran.count(-1) == desk.ran.count(-2) == desk.ran.count(4) == 1


async def test_nothing_of_a_caller_that_was_forgotten_is_taken_for_new(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("catga.rpc.answers.MAX_CALLERS", 10)
    desk.gate.clear()
    desk.say(a_call(1, -1, key=1), a_call(2, -2), oldest=1)
    await eventually(lambda: desk.ran == [-1, -2])
    for number in range(20):
        desk.say(a_call(1, number), oldest=1, reply_to=f"catga.reply.other{number}")
    desk.say(a_call(1, -1), oldest=1)  # the first copy, from the buffer of an old link
    await eventually(lambda: desk.node.counters["repeated"] == 1)
    desk.gate.set()
    assert {frame.id for frame in await desk.hear(2)} == {1, 2}  # type: ignore[union-attr]
    desk.say(a_call(2, -2, key=2), oldest=1)
    await desk.hear(1)
    desk.say(a_call(3, -3), oldest=1)
    await desk.hear(1)
    assert (desk.ran.count(-1), desk.ran.count(-2), desk.ran.count(-3)) == (1, 1, 1)


async def test_what_was_refused_runs_when_it_comes_again(desk: Desk) -> None:
    """Its first attempt has ended, and was no run: the key that both have must not count as one."""
    desk.gate.clear()
    last = LIMIT + 1
    desk.say(*(a_call(number, number) for number in range(1, last + 1)), oldest=1)
    [refused] = await desk.hear(1)
    assert isinstance(refused, Fault)
    assert (refused.id, refused.execution) == (last, Execution.NO)
    desk.gate.set()
    await desk.hear(LIMIT)
    desk.say(a_call(last + 1, last, key=last), oldest=last + 1)
    [frame] = await desk.hear(1)
    assert value(frame) == last
    assert desk.ran == [*range(1, last + 1)]


async def test_calls_of_two_ways_may_come_out_of_order(desk: Desk) -> None:
    """Calls by a queue and calls to a node have ids from one row, and nothing orders them."""
    desk.say(a_call(8, 18), oldest=3)
    await desk.hear(1)
    desk.say(a_call(3, 13), oldest=3)
    await desk.hear(1)
    assert desk.ran == [18, 13]


async def test_an_attempt_behind_a_cancelled_one_that_still_runs_is_answered(desk: Desk) -> None:
    """The node hung, its caller gave up and tried again, and all three come at once."""
    desk.gate.clear()
    desk.say(a_call(1, 1), oldest=1)
    await eventually(lambda: desk.ran == [1])
    server = desk.node._node.peer.server  # type: ignore[union-attr]
    desk.say(a_call(2, 1), Cancel(2), a_call(3, 1, key=2), oldest=1)
    [frame] = await desk.hear(1)
    assert isinstance(frame, Fault)
    assert (frame.id, frame.execution) == (3, Execution.MAYBE)
    desk.gate.set()
    await desk.hear(1)
    assert server.inflight == 0


async def test_of_many_repeats_of_one_call_only_the_newest_are_answered(desk: Desk) -> None:
    desk.gate.clear()
    desk.say(a_call(1, 1), oldest=1)
    await eventually(lambda: desk.ran == [1])
    desk.say(*(a_call(number, 1, key=1) for number in range(2, 5000)), oldest=1)
    await eventually(lambda: desk.node.counters["repeated"] == 4998)
    desk.gate.set()
    answers = await desk.hear(MAX_REPEATS + 1)
    assert [frame.id for frame in answers] == [1, *range(5000 - MAX_REPEATS, 5000)]  # type: ignore[union-attr]
    assert desk.ran == [1]


async def test_a_late_call_that_its_caller_has_seen_end_does_not_run_even_if_none_came_after_it(desk: Desk) -> None:
    desk.say(a_call(1, 1), oldest=1)
    await desk.hear(1)
    desk.say(oldest=10)
    desk.say(a_call(5, 5), oldest=1)
    await eventually(lambda: desk.node.counters["dropped_expired"] == 1)
    assert desk.ran == [1]


@pytest.mark.parametrize("ttl", [math.nan, 0.0, -1.0, -math.inf])
async def test_a_call_without_time_left_does_not_run(desk: Desk, ttl: float) -> None:
    desk.say(msgspec.structs.replace(a_call(1, 1), ttl=ttl), oldest=1)
    await eventually(lambda: desk.node.counters["dropped_expired"] == 1)
    assert desk.ran == []


@pytest.mark.parametrize("ttl", [math.inf, 1e300])
async def test_every_call_has_a_deadline(desk: Desk, ttl: float) -> None:
    desk.gate.clear()
    desk.say(msgspec.structs.replace(a_call(1, 1), ttl=ttl), oldest=1)
    await eventually(lambda: desk.ran == [1])
    server = desk.node._node.peer.server  # type: ignore[union-attr]
    (call,) = server._calls.values()
    assert call.deadline <= asyncio.get_running_loop().time() + MAX_TTL


async def test_a_repeat_that_is_refused_may_have_run_before_if_that_is_forgotten(desk: Desk) -> None:
    server = desk.node._node.peer.server  # type: ignore[union-attr]
    server.answers = Answers(entries=10)
    await desk.go_on(4, oldest=3)
    server.refuse(ClosedError("it drains"))
    again = Call(4, f"{__name__}.Look", 60_000, msgspec.msgpack.encode(Look()), 4)
    desk.say(again, a_call(5000, 1), oldest=3)
    repeat, new = await desk.hear(2)
    assert isinstance(repeat, Fault)
    assert isinstance(new, Fault)
    assert (repeat.execution, new.execution) == (Execution.MAYBE, Execution.NO)


async def test_what_nobody_waits_for_leaves_the_window_before_what_somebody_does() -> None:
    answers = Answers(entries=600)
    for box in ("waits", "goes on"):
        answers.caller(box, 0.0)
    for number in range(1, 501):
        answers.keep(("waits", number), Reply(number, b""))
    for number in range(1, 20_000):
        answers.keep(("goes on", number), Reply(number, b""))
        if not number % 100:
            answers.ended("goes on", number - 50)
    assert all(isinstance(answers.look_up(("waits", number)), Reply) for number in range(1, 501))
    assert len(answers) < 600 + 3 * GENERATION


async def test_the_window_counts_the_bytes_of_faults_too() -> None:
    answers = Answers(size=100_000)
    answers.caller("box", 0.0)
    for number in range(1, 2000):
        answers.keep(("box", number), Fault(number, "x", "long " * 200, {}, False, Execution.ANSWERED))
    assert len(answers) < 100_000 // 1000 + 3 * GENERATION


async def test_the_repeat_of_a_refused_attempt_is_refused_although_there_is_room_by_now(desk: Desk) -> None:
    server = desk.node._node.peer.server  # type: ignore[union-attr]
    server.refuse(ClosedError("not now"))
    desk.say(a_call(1, 10), oldest=1)
    [first] = await desk.hear(1)
    server._places.refusing = None
    desk.say(a_call(1, 10, key=1), oldest=1)
    [second] = await desk.hear(1)
    assert isinstance(second, Fault)
    assert second == first
    assert desk.ran == []


async def test_a_new_attempt_of_a_refused_request_is_judged_anew(desk: Desk) -> None:
    server = desk.node._node.peer.server  # type: ignore[union-attr]
    server.refuse(ClosedError("not now"))
    desk.say(a_call(1, 10), oldest=1)
    await desk.hear(1)
    server._places.refusing = None
    desk.say(a_call(2, 10, key=1), oldest=1)
    assert value((await desk.hear(1))[0]) == 1
    assert desk.ran == [10]


async def test_the_repeat_of_a_refusal_that_was_forgotten_may_have_run(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("catga.rpc.refusals.MAX_REFUSALS", 10)
    server = desk.node._node.peer.server  # type: ignore[union-attr]
    server.refuse(ClosedError("not now"))
    desk.say(*(a_call(number, number) for number in range(1, 21)), oldest=1)
    await desk.hear(20)
    server._places.refusing = None
    desk.say(a_call(5, 5, key=5), a_call(15, 15, key=15), oldest=1)
    forgotten, remembered = await desk.hear(2)
    assert isinstance(forgotten, Fault)
    assert isinstance(remembered, Fault)
    assert (forgotten.execution, remembered.execution) == (Execution.MAYBE, Execution.NO)
    assert desk.ran == []


async def test_what_a_batch_waited_on_its_way_is_taken_off_the_time_of_its_calls(desk: Desk) -> None:
    now = boottime()
    desk.say(Cancel(0), clock=now)  # its quickest
    desk.say(msgspec.structs.replace(a_call(1, 1), ttl=5.0), oldest=1, clock=now - 6.0)
    [late] = await desk.hear(1)
    assert isinstance(late, Fault)
    assert late.execution is Execution.NO  # should its caller still wait
    desk.say(msgspec.structs.replace(a_call(2, 2), ttl=5.0), oldest=1, clock=now - 1.0)
    await desk.hear(1)
    assert desk.ran == [2]


async def test_a_forged_word_of_what_has_ended_silences_nobody_for_long(desk: Desk) -> None:
    desk.say(a_call(1, 1), oldest=1, clock=boottime())
    await desk.hear(1)
    desk.say(oldest=2**62, clock=boottime())
    desk.say(a_call(2, 2), oldest=2, clock=boottime())
    await desk.hear(1)
    assert desk.ran == [1, 2]
