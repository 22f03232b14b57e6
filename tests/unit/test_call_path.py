"""What could go wrong between a caller's `send` and the broker, each by a sequence that is easy to repeat."""

import asyncio
import contextvars
import math
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import pytest

from catga import DistributedMediator, Mediator, Request, Success, add_cluster
from catga.abc import Outgoing
from catga.backends.memory import MemoryTransport, hub
from catga.errors import CatgaTimeoutError, ClosedError, ClusterError, Execution
from catga.rpc.answers import GENERATION, Answers, Seen
from catga.rpc.clock import boottime
from catga.rpc.outbox import FULL, MARKS, Outbox
from catga.rpc.wire import VERSION, Batch, Call, Frame, Ping, Reply, decode_batch
from catga.testing import ManualClock, eventually

tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="-")


class Count(msgspec.Struct, Request[int], frozen=True):
    number: int


class Hold(msgspec.Struct, Request[int], frozen=True):
    number: int


class Who(msgspec.Struct, Request[str], frozen=True):
    pass


class Pair:
    """A caller, and nodes that note what they ran."""

    def __init__(self, name: str, *nodes: str) -> None:
        self.ran: list[tuple[str, int]] = []
        self.gate = asyncio.Event()
        url = f"memory://{name}"
        self.caller = add_cluster(Mediator(), url, node_id="caller", request_timeout=5.0)
        self.nodes = {node_id: add_cluster(self._app(node_id), url, node_id=node_id) for node_id in nodes}

    def _app(self, node_id: str) -> Mediator:
        app = Mediator()

        @app.handler
        def count(request: Count) -> int:
            self.ran.append((node_id, request.number))
            return request.number

        @app.handler
        async def hold(request: Hold) -> int:
            self.ran.append((node_id, request.number))
            await self.gate.wait()
            return request.number

        @app.handler
        def who(request: Who) -> str:
            return tenant.get()

        return app

    async def __aenter__(self) -> "Pair":
        for node in (*self.nodes.values(), self.caller):
            await node.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.gate.set()
        for node in (self.caller, *self.nodes.values()):
            await node.stop()

    def peer(self, node: DistributedMediator) -> Any:
        return node._node.peer  # type: ignore[union-attr]


class Congested:
    """The caller's transport, whose buffer is full until `room` is set."""

    def __init__(self, pair: Pair) -> None:
        transport = pair.peer(pair.caller)._transport
        self.room = asyncio.Event()
        self._publish = transport.publish
        transport.publish = self.publish
        transport.drain = self.room.wait

    def publish(self, messages: Sequence[Outgoing]) -> bool:
        self._publish(messages)
        return self.room.is_set()


@pytest.fixture
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    async with Pair(request.node.name, "b") as pair:
        yield pair


async def test_the_only_node_that_refuses_is_asked_again_until_the_deadline(pair: Pair) -> None:
    server = pair.peer(pair.nodes["b"]).server
    server.refuse(ClosedError("not yet"))
    sending = asyncio.create_task(pair.caller.send(Count(1)))
    await eventually(lambda: pair.caller.counters["failovers"] >= 2)
    server._places.refusing = None
    result = await sending
    assert isinstance(result, Success)
    assert result.metadata.attempts >= 3


async def test_a_call_that_ended_before_there_was_room_for_it_never_leaves(pair: Pair) -> None:
    congested = Congested(pair)
    assert (await pair.caller.send(Count(0))).is_success  # from now on the buffer is full
    result = await pair.caller.send_to_all(Count(1), timeout=0.1)
    (error,) = result.silent.values()
    assert isinstance(error, CatgaTimeoutError)
    assert error.execution is Execution.NO
    congested.room.set()
    assert (await pair.caller.send(Count(2))).is_success
    assert pair.ran == [("b", 0), ("b", 2)]


async def test_a_call_that_went_elsewhere_before_there_was_room_for_it_runs_once() -> None:
    async with Pair("elsewhere", "b", "c") as pair:
        congested = Congested(pair)
        assert (await pair.caller.send(Count(0))).is_success
        sending = asyncio.create_task(pair.caller.send(Count(1)))
        client = pair.peer(pair.caller).client
        await eventually(lambda: client.pending == 1)
        (waiting,) = [d for d in client.destinations.values() if d.pending]
        client.node_silent(waiting.node_id, waiting.incarnation)
        await eventually(lambda: not waiting.pending)
        congested.room.set()
        assert (await sending).is_success
        assert [number for _, number in pair.ran] == [0, 1]


async def test_as_many_calls_as_a_node_is_busy_with_leave_together(pair: Pair) -> None:
    """One less, and the last of them would cost a message of its own, each time."""
    busy = [asyncio.create_task(pair.caller.send(Hold(number))) for number in range(FULL)]
    await eventually(lambda: len(pair.ran) == FULL)
    before = pair.caller.counters["batches"]
    more = [asyncio.create_task(pair.caller.send(Hold(number))) for number in range(FULL)]
    await eventually(lambda: pair.peer(pair.caller).client.pending == 2 * FULL)
    await asyncio.sleep(0)
    assert pair.caller.counters["batches"] == before + 1
    await eventually(lambda: len(pair.ran) == 2 * FULL)
    pair.gate.set()
    await asyncio.gather(*busy, *more)


async def test_repeats_that_cannot_leave_stop_neither_each_other_nor_the_batch_that_asked_for_them(pair: Pair) -> None:
    count = FULL + 36  # so that they leave before the end of the turn, too
    calls = [asyncio.create_task(pair.caller.send(Hold(number))) for number in range(count)]
    await eventually(lambda: len(pair.ran) == count)
    peer = pair.peer(pair.caller)
    client, transport = peer.client, peer._transport
    (to,) = [d for d in client.destinations.values() if d.pending]
    new = asyncio.create_task(pair.caller.send(Hold(1000)))
    await asyncio.sleep(0)  # it is put, and has not left

    def down(_: Sequence[Outgoing]) -> bool:
        raise ClusterError("down")

    real, transport.publish = transport.publish, down
    client.on_alive("b", to.incarnation, to.epoch + 1, asyncio.get_running_loop().time())
    assert all(pending.repeated for pending in to.pending.values() if pending.sent)
    assert len(to.pending) == count
    transport.publish = real
    client.link_up()
    pair.gate.set()
    assert all(result.is_success for result in await asyncio.gather(*calls, new))
    assert sorted(number for _, number in pair.ran) == [*range(count), 1000]


async def test_a_handler_is_in_no_callers_context(pair: Pair) -> None:
    async def user(name: str) -> str:
        tenant.set(name)
        return (await pair.caller.send(Who())).unwrap()

    assert await asyncio.gather(*(asyncio.create_task(user(name)) for name in "xyz")) == ["-", "-", "-"]


async def test_the_time_of_a_call_runs_from_its_await() -> None:
    async with Pair("late", "b") as pair:
        transport, sent = pair.peer(pair.caller)._transport, list[Outgoing]()
        publish = transport.publish
        transport.publish = lambda messages: sent.extend(messages) or publish(messages)
        made = pair.caller.send(Count(1))
        await asyncio.sleep(0.05)
        assert (await made).is_success
        (call,) = [f for message in sent for f in decode_batch(message.payload).frames if isinstance(f, Call)]
        assert call.ttl == pytest.approx(5.0)


@pytest.mark.parametrize("size", [10, 1500])
def test_the_window_of_answers_is_bounded_and_knows_what_it_forgot(size: int) -> None:
    answers = Answers(entries=1024, size=512 * 1024)
    answers.caller("box", 0.0)
    for number in range(1, 10_001):
        answers.keep(("box", number), Reply(number, b"x" * size))
        assert len(answers) <= 1024 + 2 * GENERATION
        assert len(answers) * size <= 512 * 1024 + 2 * GENERATION * size
    assert answers.look_up(("box", 10_000)) == Reply(10_000, b"x" * size)
    kept = [number for number in range(1, 10_001) if isinstance(answers.look_up(("box", number)), Reply)]
    assert kept == list(range(kept[0], 10_001))
    assert len(kept) == len(answers) > 300
    assert answers.look_up(("box", kept[0] - 1)) is Seen.FORGOTTEN
    assert answers.look_up(("box", 10_001)) is Seen.NEVER
    assert answers.look_up(("other", 1)) is Seen.NEVER


def test_answers_that_nobody_asks_for_leave_the_window_first() -> None:
    answers = Answers()
    for reply_to in ("one", "slow"):
        answers.caller(reply_to, 0.0)
    answers.keep(("slow", 1), Reply(1, b""))
    for number in range(2, 5000):
        answers.ended("one", number)
        answers.keep(("one", number), Reply(number, b""))
        assert len(answers) <= 3 * GENERATION
    assert answers.look_up(("one", 4999)) == Reply(4999, b"")
    assert answers.look_up(("slow", 1)) == Reply(1, b"")
    answers.ended("slow", 2)
    for number in range(5000, 10_000):
        answers.keep(("one", number), Reply(number, b""))  # it ends none of them
    assert answers.look_up(("one", 5000)) == Reply(5000, b"")
    assert answers.look_up(("slow", 1)) is Seen.NEVER, "its caller had the answer: nothing was forgotten"


@pytest.mark.parametrize("size", [64 * 1024, 1024 * 1024])
def test_large_answers_leave_one_after_the_other(size: int) -> None:
    answers = Answers(size=4 * 1024 * 1024)
    answers.caller("box", 0.0)
    for number in range(1, 200):
        answers.keep(("box", number), Reply(number, bytes(size)))
        for last in range(max(1, number - 2), number + 1):
            assert answers.look_up(("box", last)) == Reply(last, bytes(size))
        assert len(answers) * size < 8 * 1024 * 1024


def test_an_answer_is_kept_for_the_newest_attempt_that_asked_for_it() -> None:
    answers = Answers()
    answers.caller("box", 0.0)
    answers.keep(("box", 5), Reply(12, b"x"))  # the key of a first attempt that was refused elsewhere
    answers.ended("box", 12)
    for number in range(20, 20 + 4 * GENERATION):
        answers.keep(("box", number), Reply(number, b""))
    assert answers.look_up(("box", 5)) == Reply(12, b"x")


def test_callers_are_bounded_and_doubted_only_while_one_may_be_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("catga.rpc.answers.MAX_CALLERS", 100)
    answers = Answers()
    busy = answers.caller("busy", 0.0)
    for number in range(1000):  # one a minute: of those that leave nobody repeats anything
        assert answers.caller(f"once{number}", 61.0 * number).newest == 0
        assert answers.caller("busy", 61.0 * number) is busy
    now = 61.0 * 1000
    for number in range(101):
        answers.caller(f"crowd{number}", now)
    answers.keep(("crowd0", 1), Reply(1, b""))
    assert answers.caller("crowd0", now).newest == math.inf
    assert answers.look_up(("crowd0", 1)) == Reply(1, b"")
    assert answers.look_up(("crowd0", 2)) is Seen.FORGOTTEN
    assert answers.caller("later", now + 120.0).newest == 0
    assert answers.look_up(("later", 2)) is Seen.NEVER


async def test_a_caller_tells_which_of_its_calls_have_ended(pair: Pair) -> None:
    client, server = pair.peer(pair.caller).client, pair.peer(pair.nodes["b"]).server
    for start in range(0, 3000, 100):
        await pair.caller.send_batch([Count(number) for number in range(start, start + 100)])
    assert client.ended_before() == 3001
    assert len(server.answers) < 3 * GENERATION
    held = asyncio.create_task(pair.caller.send(Hold(1)))
    await eventually(lambda: pair.ran[-1] == ("b", 1))
    await pair.caller.send_batch([Count(number) for number in range(100)])
    assert client.ended_before() == 3001
    pair.gate.set()
    await held
    assert client.ended_before() == 3102


@pytest.mark.parametrize(
    ("sizes", "messages"),
    [([1000] * 400, 7), ([50] * 64 + [1_000_000], 2), ([50] * 32 + [1_000_000] + [50] * 32, 3), ([4096] * 16, 2)],
)
async def test_what_is_too_large_for_one_batch_leaves_in_few_and_in_order(sizes: list[int], messages: int) -> None:
    sent: list[Outgoing] = []
    outbox = an_outbox(sent)
    for number, size in enumerate(sizes):
        outbox.put("s", Reply(number, bytes(size)), full=len(sizes))
    frames = [frame for outgoing in sent for frame in decode_batch(outgoing.payload).frames]
    assert [frame.id for frame in frames] == list(range(len(sizes)))  # type: ignore[union-attr]
    assert len(sent) == messages


async def test_headers_that_are_too_large_for_one_batch_leave_in_halves() -> None:
    sent: list[Outgoing] = []
    outbox = an_outbox(sent)
    for number in range(8):
        outbox.put("s", Call(number, "x", 1000, b"", 0, {"h": "v" * 20_000}), full=8)
    frames = [frame for outgoing in sent for frame in decode_batch(outgoing.payload).frames]
    assert [frame.id for frame in frames] == list(range(8))  # type: ignore[union-attr]
    assert len(sent) == 4


@pytest.mark.parametrize(("long", "counted"), [(-1.0, [1, 2]), (3600.0, [])])
async def test_a_full_batch_in_a_long_turn_counts_what_its_calls_waited(
    monkeypatch: pytest.MonkeyPatch, long: float, counted: list[int]
) -> None:
    """It leaves before the end of the turn, and yet some of it may have waited since its beginning."""
    monkeypatch.setattr("catga.rpc.outbox.LONG", long)
    sent: list[Outgoing] = []
    waited: list[Frame] = []
    outbox = an_outbox(sent, waited)
    for number in (1, 2):
        outbox.put("s", Call(number, "x", 1000, b""), full=2)
    assert len(sent) == 1
    assert [frame.id for frame in waited if isinstance(frame, Call)] == counted


def an_outbox(sent: list[Outgoing], waited: list[Frame] | None = None) -> Outbox:
    """One that notes what leaves it, and what waited before."""

    class Noting:
        max_payload = 8 * 1024 * 1024

        def publish(self, messages: Sequence[Outgoing]) -> bool:
            sent.extend(messages)
            return True

    def on_failed(subject: str, frames: object, error: Exception) -> None:
        raise error

    transport: Any = Noting()
    return Outbox(
        transport,
        lambda frames: Batch(VERSION, "me", 1, 0.0, "p.reply.me", frames),
        on_sent=lambda subject, token, frames: None,
        on_failed=on_failed,
        on_waited=lambda frames: None if waited is None else waited.extend(frames),
    )


async def test_how_long_ago_a_batch_left_is_known_or_older(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Outgoing] = []
    outbox, clock = an_outbox(sent), ManualClock()
    monkeypatch.setattr("catga.rpc.outbox.perf_counter", clock)
    for _ in range(3):
        outbox.put("p.inbox.n1.1", Ping())
        clock.advance(0.5)  # the turn took so long
        await outbox.drained()
        clock.advance(0.5)
    assert [outbox.age(each.token) for each in sent] == [2.5, 1.5, 0.5]
    for _ in range(MARKS):
        outbox.put("p.inbox.n1.1", Ping())
        await outbox.drained()
        clock.advance(0.5)
    assert [outbox.age(each.token) for each in sent[:4]] == [math.inf, math.inf, math.inf, MARKS / 2]


@pytest.mark.parametrize("fails", [ClusterError("it broke again"), asyncio.CancelledError()], ids=["fails", "ends"])
async def test_a_subscription_that_broke_while_it_was_made_anew_is_made_again(
    monkeypatch: pytest.MonkeyPatch, fails: BaseException
) -> None:
    """Else replies would have nowhere to go, and the link would look well."""
    async with Pair("again", "b") as pair:
        peer = pair.peer(pair.caller)
        echo, subscribe, failures = peer.echo, peer._transport.subscribe, [TimeoutError(), fails]

        async def deaf_once() -> None:
            if len(failures) == 2:
                raise failures.pop(0)
            await echo()

        async def broken_once(subject: str, *, shared: bool = False) -> None:
            if failures and subject == peer._reply_box:
                raise failures.pop(0)
            await subscribe(subject, shared=shared)

        monkeypatch.setattr(peer, "echo", deaf_once)
        monkeypatch.setattr(peer._transport, "subscribe", broken_once)
        peer.on_link(False)
        peer.on_link(True)
        await eventually(lambda: not failures)
        peer.on_link(True)  # as the link does when it is back
        await eventually(lambda: pair.caller.health == "healthy")
        assert (await pair.caller.send(Count(1))).is_success


async def test_whoever_gives_up_waiting_for_the_drain_does_not_end_it_for_others(pair: Pair) -> None:
    call = asyncio.create_task(pair.caller.send(Hold(1)))
    await eventually(lambda: pair.ran == [("b", 1)])
    server = pair.peer(pair.nodes["b"]).server
    first, second = asyncio.create_task(server.idle()), asyncio.create_task(server.idle())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    pair.gate.set()
    await asyncio.wait_for(second, 30)
    assert (await call).is_success


async def test_a_ping_that_is_lost_does_not_keep_a_node_from_joining(monkeypatch: pytest.MonkeyPatch) -> None:
    lost: list[Outgoing] = []

    def publish(transport: MemoryTransport, messages: Sequence[Outgoing]) -> bool:
        if len(lost) < 3:
            lost.extend(messages)
            return True
        return real(transport, messages)

    real = MemoryTransport.publish
    monkeypatch.setattr(MemoryTransport, "publish", publish)
    async with add_cluster(Mediator(), "memory://lost", node_id="a") as node:
        assert node.health == "healthy"
    assert len(lost) == 3


async def test_a_stop_that_is_cancelled_again_and_again_frees_everything() -> None:
    async with Pair("stopped", "b") as pair:
        call = asyncio.create_task(pair.caller.send(Hold(1)))
        await eventually(lambda: pair.ran == [("b", 1)])
        node, peer = pair.nodes["b"], pair.peer(pair.nodes["b"])
        ending = asyncio.create_task(node.stop())
        await asyncio.sleep(0)
        for _ in range(2):
            ending.cancel()
            await asyncio.sleep(0)
        await asyncio.wait([ending])
        await eventually(lambda: peer.client.closed)
        await eventually(lambda: not any(peer._transport in each for each in hub("stopped").subscribers.values()))
        call.cancel()


async def test_a_long_turn_of_the_senders_loop_counts_against_the_calls_put_before_it_only(pair: Pair) -> None:
    peer = pair.peer(pair.caller)
    left: list[tuple[Call, float]] = []
    publish = peer._transport.publish

    def note(messages: Sequence[Outgoing]) -> bool:
        for batch in (decode_batch(message.payload) for message in messages):
            left.extend((frame, batch.clock) for frame in batch.frames if isinstance(frame, Call))
        return publish(messages)

    peer._transport.publish = note
    loop = asyncio.get_running_loop()
    before = asyncio.ensure_future(pair.caller.send(Count(1)))
    loop.call_soon(time.sleep, 0.2)
    after = asyncio.ensure_future(pair.caller.send(Count(2)))
    assert [(await each).is_success for each in (before, after)] == [True, True]
    [(first, clock), (second, _)] = left
    assert first.ttl < 4.85
    assert second.ttl > 4.95
    assert boottime() - clock < 5.0


async def test_what_waits_for_its_place_here_does_not_begin_after_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []
    app = Mediator()

    @app.handler
    async def hold(request: Hold) -> int:
        ran.append(request.number)
        await asyncio.sleep(0.01)
        time.sleep(0.3 if request.number == 1 else 0.0)  # noqa: ASYNC251 - as when the process is stopped
        return request.number

    async with add_cluster(app, "memory://waits", max_concurrency=1, request_timeout=0.2) as node:
        results = await asyncio.gather(node.send(Hold(1)), node.send(Hold(2)))
        assert ran == [1]
        error = results[1].error  # type: ignore[union-attr]
        assert (type(error), error.execution) == (CatgaTimeoutError, Execution.NO)
