"""A request that comes again: which of its copies run, as a caller sees that speaks the wire by hand."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from catga import Mediator, Request, add_cluster
from catga.abc import BackendSettings, Outgoing
from catga.backends import open_backend
from catga.errors import Execution, MaybeExecutedError
from catga.rpc.answers import Answers, Seen
from catga.rpc.subjects import inbox
from catga.rpc.wire import VERSION, Batch, Call, Fault, Frame, Reply, decode_batch, encode_batch
from catga.testing import eventually

URL = "memory://dedup"
LIMIT = 50


class Book(msgspec.Struct, Request[int], frozen=True):
    number: int


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

        self.node = add_cluster(app, URL, node_id="desk", max_concurrency=LIMIT, max_queue=0)
        self._transport = open_backend(BackendSettings(url=URL)).transport

    async def open(self) -> None:
        await self.node.start()
        await self._transport.start(self)
        await self._transport.subscribe("catga.reply.hand")

    async def close(self) -> None:
        await self._transport.aclose()
        await self.node.stop()

    def say(self, *calls: Call, oldest: int = 0, reply_to: str = "catga.reply.hand") -> None:
        """One batch."""
        batch = Batch(VERSION, "hand", 1, 0.0, reply_to, list(calls), 0, oldest)
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
    def on_link(self, up: bool) -> None: ...


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
