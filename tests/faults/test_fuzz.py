"""Everything that decodes bytes from the bus takes any bytes: it says no with `InvalidMessageError`, and lives on."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from catga import Mediator, NodeInfo, Request
from catga.abc import Departure, Outgoing, Sighting
from catga.codec import Codec
from catga.errors import CatgaError, HandlerNotFoundError, InvalidMessageError
from catga.membership.exchange import decode_view, encode_view
from catga.membership.hearing import HearingClock
from catga.membership.records import decode_announcement, decode_record, encode_record
from catga.membership.view import MAX_MEMBERS, MAX_TOMBSTONES, View
from catga.node import LeftReason, NodeChangeEvent
from catga.rpc.peer import Peer
from catga.rpc.runner import Endpoint
from catga.rpc.signing import Signer
from catga.rpc.wire import (
    VERSION,
    Ask,
    Batch,
    Call,
    Cancel,
    Fault,
    Frame,
    Ping,
    Pong,
    Reply,
    Tell,
    decode_batch,
    encode_batch,
)
from catga.testing.clock import ManualClock

WITH_FIXTURES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@dataclass(frozen=True)
class AsDataclass(Request[int]):
    number: int
    names: list[str]
    inner: dict[str, float] | None = None


class AsStruct(msgspec.Struct, Request[int], frozen=True):
    number: int
    names: list[str]
    inner: dict[str, float] | None = None


@attrs.frozen
class AsAttrs(Request[int]):
    number: int
    names: list[str]
    inner: dict[str, float] | None = None


class AsPydantic(pydantic.BaseModel, Request[int]):
    number: int
    names: list[str]
    inner: dict[str, float] | None = None


CODECS = [Codec(cls) for cls in (AsDataclass, AsStruct, AsAttrs, AsPydantic)]
CODECS[0].decode(msgspec.msgpack.encode({"number": 1, "names": []}))


def nested(depth: int) -> bytes:
    return b"\x91" * depth + b"\xc0"


HUGE = [0, 1, -1, 2**31, 2**53 - 1, 2**53, 2**63 - 1, 2**63, 2**64 - 1, -(2**63)]
NUMBERS = st.sampled_from([*HUGE, float("nan"), float("inf"), -0.5, 1e300])
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=8), st.binary(max_size=8))
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
)
FRAMES: list[Any] = [
    Call(1, "x", 1000, b"\x01", 3, {"a": "b"}),
    Reply(1, b"\x01"),
    Fault(1, "timeout", "text", {"a": 1}, True, CatgaError("x").execution),
    Ping(),
    Pong(5),
    Ask(1, "other", 5),
    Tell(1, 0.5),
    Cancel(1),
]
BATCHES = [msgspec.to_builtins(Batch(VERSION, "peer", 3, 0.5, "p.reply.abc", [frame])) for frame in FRAMES]
for fields, frame in zip(BATCHES, FRAMES, strict=True):
    fields[5] = [msgspec.msgpack.decode(msgspec.msgpack.encode(frame))]


@st.composite
def mutated_batches(draw: st.DrawFn) -> bytes:
    """A valid batch with some fields replaced, and then perhaps some bytes."""
    fields = msgspec.msgpack.decode(msgspec.msgpack.encode(draw(st.sampled_from(BATCHES))))
    for _ in range(draw(st.integers(0, 3))):
        target = draw(st.sampled_from([fields, *fields[5]])) if isinstance(fields[5], list) and fields[5] else fields
        if isinstance(target, list) and target:
            target[draw(st.integers(0, len(target) - 1))] = draw(TREES)
    data = bytearray(msgspec.msgpack.encode(fields))
    for _ in range(draw(st.sampled_from([0, 0, 1, 3]))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.sampled_from([0xC1, 0xFF, 0x80, 0xA1, 0xC4, 0xD9]))
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


ANY = st.one_of(st.binary(max_size=200), mutated_batches(), st.integers(1, 100_000).map(nested))


@pytest.mark.parametrize(
    "decode",
    [decode_batch, decode_record, decode_announcement, decode_view, *(codec.decode for codec in CODECS)],
    ids=["batch", "record", "announcement", "view", "dataclass", "struct", "attrs", "pydantic"],
)
@WITH_FIXTURES
@given(data=ANY)
def test_bytes_are_decoded_or_are_an_invalid_message(decode: Callable[[bytes], Any], data: bytes) -> None:
    with suppress(InvalidMessageError):
        decode(data)


JSON = TREES.map(lambda tree: tree if isinstance(tree, dict) else {"node_id": tree})


def as_json(value: Any) -> bytes:
    try:
        return msgspec.json.encode(value)
    except (TypeError, ValueError, OverflowError):
        return b"{}"


@WITH_FIXTURES
@given(st.data())
def test_a_record_that_is_taken_can_be_passed_on(data: st.DataObject) -> None:
    """What one node accepts another must accept from it, or one bad record would spoil whole views."""
    fields = msgspec.json.decode(encode_record(NodeInfo(node_id="a", incarnation=1, metadata={"k": "v"})))
    for name in data.draw(st.lists(st.sampled_from(sorted(fields)), max_size=3)):
        fields[name] = data.draw(TREES)
    raw = as_json(fields)
    try:
        observation = decode_announcement(raw)
    except InvalidMessageError:
        return
    again, more = decode_view(b"".join(encode_view([observation], 1024 * 1024)))
    assert (again, more) == ([observation], False)


@WITH_FIXTURES
@given(ANY, st.lists(st.text(max_size=10), min_size=1, max_size=3))
def test_what_is_not_signed_is_not_opened(data: bytes, subjects: list[str]) -> None:
    signer = Signer([b"0123456789abcdef"])
    for sealed in (data, b"\xc1" + data, signer.seal("other", data)[:37] + data):
        if "other" in subjects:
            continue
        with pytest.raises(InvalidMessageError):
            signer.open(subjects, sealed)
    for sealed in (data, data + b',"mac":"' + b"0" * 64 + b'"}'):
        with pytest.raises(InvalidMessageError):
            signer.open_record("label", sealed)


# -- a whole peer -------------------------------------------------------------------------------------


class Silent:
    """A transport that takes everything, and a listener that wants to know nothing."""

    max_payload = 1024 * 1024
    is_up = True

    async def start(self, listener: Any) -> None: ...
    async def subscribe(self, subject: str) -> None: ...
    async def unsubscribe(self, subject: str) -> None: ...
    async def aclose(self) -> None: ...
    def exits(self, reason: Any) -> None: ...

    def __init__(self) -> None:
        self.sent: list[Outgoing] = []

    def publish(self, messages: Any) -> bool:
        self.sent += messages
        return True

    async def drain(self) -> None: ...

    def heard(self, node_id: str, incarnation: int, load: float, /) -> None: ...
    def heard_of_itself(self, incarnation: int, ended: int, /) -> None: ...
    def asked(self, reply_to: str, ask: Ask, /) -> None: ...
    def told(self, node_id: str, tell: Tell, /) -> None: ...
    def is_member(self, node_id: str, incarnation: int, /) -> bool:
        return False

    def ended(self, node_id: str, incarnation: int, /) -> int:
        return -1

    def replaced(self, incarnation: int, /) -> None: ...
    def unlistened(self, node_id: str, incarnation: int, age: float, /) -> None: ...
    def silent(self, node_id: str, incarnation: int, /) -> None: ...
    def known_incarnation(self, node_id: str, /) -> int:
        return 7

    def members(self) -> list[NodeInfo]:
        return []

    def link(self, up: bool, /) -> None: ...


class Nothing(dict[str, Endpoint]):
    def __missing__(self, name: str) -> Endpoint:
        raise HandlerNotFoundError(name)


async def feed(payloads: list[bytes]) -> None:
    silent = Silent()
    peer = Peer(
        silent,
        NodeInfo(node_id="me", incarnation=3),
        "p",
        silent,
        endpoints=Nothing(),
        load=lambda: 0.0,
        max_concurrency=4,
        max_queue=4,
    )
    await peer.start()
    await peer.open_inbox(3)
    for payload in payloads:
        before = peer.counters["garbage"]
        expected = unreadable(payload)
        peer.on_message(payload)
        assert peer.counters["garbage"] == before + expected, payload
    await asyncio.wait_for(peer.flush(), 10)
    assert peer.counters["internal_errors"] == 0
    for outgoing in silent.sent:
        assert outgoing.subject.startswith(("p.reply.", "p.inbox."))
        decode_batch(outgoing.payload)
    await peer.close()


def unreadable(payload: bytes) -> int:
    """What of it counts as garbage: all, or some of its frames."""
    bad: list[str] = []
    try:
        reply_to = decode_batch(payload, bad.append).reply_to
    except InvalidMessageError:
        return 1
    tail = reply_to.removeprefix("p.reply.")
    is_box = tail.isascii() and tail.replace("-", "a").replace("_", "a").isalnum()
    return len(bad) if tail != reply_to and 0 < len(tail) <= 64 and is_box else 1


@WITH_FIXTURES
@given(st.lists(ANY, max_size=8))
def test_a_peer_counts_what_it_cannot_read_and_answers_the_rest(payloads: list[bytes]) -> None:
    asyncio.run(feed(payloads))


# -- meaning, not form --------------------------------------------------------------------------------


def a_view(events: list[NodeChangeEvent]) -> View:
    clock = ManualClock()
    return View(ttl=60, clock=clock, hearing=HearingClock(clock, 3), on_change=events.append)


def test_members_and_tombstones_are_bounded() -> None:
    view = a_view([])
    for number in range(20_000):
        view.observe(Sighting(NodeInfo(node_id=f"fake{number}", incarnation=1)))
        view.observe(Departure(f"gone{number}", 2, LeftReason.CRASHED))
    assert len(view.nodes()) == MAX_MEMBERS
    assert view.rejected == 20_000 - MAX_MEMBERS
    assert sum(isinstance(o, Departure) for o in view.observations()) == MAX_TOMBSTONES


@pytest.mark.parametrize("number", [n for n in HUGE if n < 0 or n >= 2**53 - 2**32])
def test_a_counter_out_of_range_is_no_record_and_neither_batch_nor_frame(number: int) -> None:
    raw = encode_record(NodeInfo(node_id="a", incarnation=77)).replace(b"77", str(number).encode())
    with pytest.raises(InvalidMessageError):
        decode_record(raw)
    with pytest.raises(InvalidMessageError):
        decode_batch(encode_batch(Batch(VERSION, "a", number, 0.0, "p.reply.a", [])))
    bad: list[str] = []
    pongs: list[Frame] = [Pong(number), Pong(1)]
    assert decode_batch(encode_batch(Batch(VERSION, "a", 1, 0.0, "p.reply.a", pongs)), bad.append).frames == [Pong(1)]
    assert len(bad) == 1


def test_a_mediator_is_enough_for_the_four_kinds_of_message() -> None:
    app = Mediator()
    for codec in CODECS:
        app.handles(codec.cls)(lambda request: request.number)
    body = msgspec.msgpack.encode({"number": 1, "names": ["a"]})
    assert [codec.decode(body).number for codec in CODECS] == [1, 1, 1, 1]


def test_views_that_tell_each_other_do_not_keep_tombstones_for_ever() -> None:
    clock = ManualClock()
    hearings = [HearingClock(clock, 3) for _ in range(2)]
    views = [View(ttl=10, clock=clock, hearing=hearing, on_change=lambda event: None) for hearing in hearings]
    views[0].observe(Departure("gone", 5, LeftReason.CRASHED))
    for second in range(30):
        for hearing in hearings:
            hearing.heard()
        for teller, listener in (views, views[::-1]):
            for observation in list(teller.observations()):
                listener.observe(observation)
        for view in views:
            view.forget()
        assert second > 18 or all(view.buried("gone") for view in views)
        clock.advance(1)
    assert not any(view.buried("gone") for view in views)
