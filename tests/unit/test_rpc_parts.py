"""The parts of the rpc room that need no broker: deadlines, outbox, wire."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catga.abc import Outgoing
from catga.errors import CatgaError, ClusterError, InvalidMessageError, OverloadedError
from catga.node import NEWEST
from catga.rpc.deadlines import RESOLUTION, Deadlines
from catga.rpc.outbox import FULL, Outbox
from catga.rpc.wire import VERSION, Batch, Call, Cancel, Frame, Ping, Pong, Reply, decode_batch, encode_batch
from catga.testing import eventually


class Ending:
    def __init__(self, deadline: float) -> None:
        self.deadline = deadline


class Held(dict[int, Ending]):
    """What is held, and when it expired."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.get_running_loop()
        self.expired: list[tuple[int, float]] = []
        self.deadlines = Deadlines(self, self._on_expired)

    def add(self, key: int, deadline: float) -> None:
        self[key] = Ending(deadline)
        if deadline < self.deadlines.due:
            self.deadlines.watch(deadline)

    def _on_expired(self, key: int) -> None:
        del self[key]
        self.expired.append((key, self.loop.time()))


class TestDeadlines:
    async def test_each_expires_once_never_early_and_in_order(self) -> None:
        held = Held()
        start = held.loop.time()
        for key, after in ((3, 0.15), (1, 0.0), (2, 0.05), (4, -1.0)):
            held.add(key, start + after)
        await eventually(lambda: len(held.expired) == 4)
        assert [key for key, _ in held.expired][-2:] == [2, 3]
        due = {1: 0.0, 2: 0.05, 3: 0.15, 4: -1.0}
        assert all(at >= start + due[key] - 0.002 for key, at in held.expired)
        held.deadlines.close()

    async def test_what_ended_before_does_not_expire(self) -> None:
        held = Held()
        for key in range(10):
            held.add(key, held.loop.time() + RESOLUTION)
        for key in range(9):
            del held[key]
        await eventually(lambda: held.expired)
        assert [key for key, _ in held.expired] == [9]
        held.add(10, held.loop.time() + RESOLUTION)  # the timer starts anew
        await eventually(lambda: len(held.expired) == 2)
        held.deadlines.close()

    async def test_ends_that_take_long_do_not_make_the_next_deadline_late(self) -> None:
        held = Held()
        end = held._on_expired

        def end_slowly(key: int) -> None:
            time.sleep(0.2)
            end(key)

        held.deadlines._on_expired = end_slowly
        held.add(1, held.loop.time())
        held.add(2, held.loop.time() + 0.4)
        await eventually(lambda: held.expired)
        assert held.deadlines.due <= held.expired[0][1] + 0.4
        held.deadlines.close()

    async def test_after_the_close_nothing_expires(self) -> None:
        held = Held()
        held.add(1, held.loop.time())
        held.deadlines.close()
        held.add(2, held.loop.time())
        await asyncio.sleep(3 * RESOLUTION)
        assert held.expired == []


class Bus:
    """A transport that remembers what was published, or fails."""

    max_payload = 5000
    is_up = True

    def __init__(self) -> None:
        self.writes: list[list[Outgoing]] = []
        self.error: CatgaError | None = None
        self.room = asyncio.Event()
        self.room.set()

    def publish(self, messages: Sequence[Outgoing]) -> bool:
        if self.error is not None:
            raise self.error
        self.writes.append(list(messages))
        return self.room.is_set()

    async def drain(self) -> None:
        await self.room.wait()

    def frames(self, subject: str) -> list[Frame]:
        sent = [m for write in self.writes for m in write if m.subject == subject]
        return [frame for message in sent for frame in decode_batch(message.payload).frames]


class Box(Outbox):
    """An outbox on a `Bus`, with notes of what it told."""

    def __init__(self, bus: Bus, **options: Any) -> None:
        self.sent: list[tuple[str, int, int]] = []
        self.failed: list[tuple[str, int, CatgaError]] = []
        super().__init__(
            bus,  # type: ignore[arg-type]
            lambda frames: Batch(VERSION, "me", 1, 0.0, "reply", frames),
            on_sent=lambda subject, number, frames: self.sent.append((subject, number, len(frames))),
            on_failed=lambda subject, frames, error: self.failed.append((subject, len(frames), error)),
            **options,
        )


@pytest.fixture
async def bus() -> Bus:
    return Bus()


@pytest.fixture
async def box(bus: Bus) -> AsyncGenerator[Box, None]:
    box = Box(bus, limit=200)
    yield box
    box.close()


def reply(number: int, size: int = 1) -> Reply:
    return Reply(number, b"x" * size)


class TestOutbox:
    async def test_frames_of_one_turn_share_a_message(self, bus: Bus, box: Box) -> None:
        for number in range(5):
            box.put("a", reply(number))
            box.put("b", Ping())
        await box.drained()
        assert [len(write) for write in bus.writes] == [2]
        assert bus.frames("a") == [reply(number) for number in range(5)]
        assert [(subject, count) for subject, _, count in box.sent] == [("a", 5), ("b", 5)]
        assert len({number for _, number, _ in box.sent}) == 2

    async def test_what_is_too_large_for_one_message_goes_in_several_in_order(self, bus: Bus, box: Box) -> None:
        for number in range(20):
            box.put("a", reply(number, 1000))
        await box.drained()
        assert bus.frames("a") == [reply(number, 1000) for number in range(20)]
        assert all(len(m.payload) <= bus.max_payload for write in bus.writes for m in write)
        assert [m.token for write in bus.writes for m in write] == [number for _, number, _ in box.sent]

    async def test_one_frame_that_is_too_large_fails_alone(self, bus: Bus, box: Box) -> None:
        for number, size in enumerate((10, 6000, 10)):
            box.put("a", reply(number, size))
        await box.drained()
        assert bus.frames("a") == [reply(0, 10), reply(2, 10)]
        [(subject, count, error)] = box.failed
        assert (subject, count, type(error)) == ("a", 1, InvalidMessageError)

    async def test_a_full_batch_leaves_at_once(self, bus: Bus, box: Box) -> None:
        for number in range(FULL + 1):
            box.put("a", reply(number))
        box.put("b", Ping())
        assert bus.frames("a") == [reply(number) for number in range(FULL)]
        assert bus.frames("b") == []
        await box.drained()
        assert bus.frames("a") == [reply(number) for number in range(FULL + 1)]
        assert [len(write) for write in bus.writes] == [1, 2]

    async def test_what_waits_is_bounded(self, bus: Bus, box: Box) -> None:
        bus.room.clear()
        box.put("a", reply(0))
        await eventually(lambda: bus.writes)  # from now on the broker's buffer is full
        for number in range(1, 201):
            box.put("a", reply(number))
        with pytest.raises(OverloadedError):
            box.put("a", reply(201))
        bus.room.set()
        await box.drained()
        assert bus.frames("a") == [reply(number) for number in range(201)]
        assert len(bus.writes) == 2  # what gathered meanwhile left together

    async def test_a_buffer_that_never_empties_is_given_up_with_its_link(self, bus: Bus, box: Box) -> None:
        bus.room.clear()
        box.put("a", reply(0))
        await eventually(lambda: bus.writes)
        box.put("a", reply(1))
        bus.error = ClusterError("down")
        box.link_changed()
        assert box.failed == [("a", 1, bus.error)]
        await box.drained()

    async def test_a_lost_link_is_told_and_survived(self, bus: Bus, box: Box) -> None:
        bus.error = ClusterError("down")
        box.put("a", reply(1))
        await eventually(lambda: box.failed)
        assert box.failed == [("a", 1, bus.error)]
        bus.error = None
        box.put("a", reply(2))
        await box.drained()
        assert bus.frames("a") == [reply(2)]


FRAMES = st.one_of(
    st.builds(Call, st.integers(0, 2**63), st.text(), st.integers(0, 2**31), st.binary()),
    st.builds(Reply, st.integers(0, 2**63), st.binary()),
    st.builds(Ping),
    st.builds(Pong, st.integers(0, NEWEST - 1)),
    st.builds(Cancel, st.integers(0, 2**63)),
)


class TestWire:
    @given(st.text(min_size=1, max_size=128), st.integers(0, NEWEST - 1), st.floats(0, 1e9), st.lists(FRAMES))
    def test_a_batch_comes_back_as_it_was(self, node: str, incarnation: int, load: float, frames: list[Frame]) -> None:
        batch = Batch(VERSION, node, incarnation, load, "reply", frames)
        assert decode_batch(encode_batch(batch)) == batch

    @given(st.binary())
    def test_any_other_bytes_are_an_invalid_message(self, data: bytes) -> None:
        try:
            decode_batch(data)
        except InvalidMessageError:
            return
        raise AssertionError(data)

    def test_fields_added_at_the_end_are_ignored(self) -> None:
        fields = msgspec.to_builtins(Batch(VERSION, "a", 1, 0.5, "r", []))
        fields[5] = [[3, 0, "new"], [1, 7, b"x", "new"]]
        data = msgspec.msgpack.encode([*fields, "new"])
        assert decode_batch(data).frames == [Ping(), Reply(7, b"x")]

    def test_another_version_is_refused_by_its_number(self) -> None:
        with pytest.raises(InvalidMessageError, match=f"wire version {VERSION + 1}"):
            decode_batch(msgspec.msgpack.encode([VERSION + 1, "a", 1, 0.5, "r", []]))
