"""Views that are compared before they are sent: the other side learns the same, from fewer bytes."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catga.abc import Departure, Observation, Sighting
from catga.errors import InvalidMessageError
from catga.membership import View
from catga.membership.exchange import MAX_BUCKETS, decode_view, digest, encode_view
from catga.membership.hearing import HearingClock
from catga.membership.records import MAX_RECORD, encode_record
from catga.node import WHOLE_LIFE, LeftReason, NodeInfo
from catga.testing import ManualClock

SIZE = 1024 * 1024
TTL = 120.0

IDS = [*(f"n{i}" for i in range(60)), "ä b", "x\ny"]

ids = st.sampled_from(IDS)
sightings = st.builds(
    lambda node_id, incarnation, sequence, age: Sighting(
        NodeInfo(node_id=node_id, incarnation=incarnation, sequence=sequence), age
    ),
    ids,
    st.integers(1, 2),
    st.integers(0, 1),
    st.floats(0, TTL - 1),
)
departures = st.builds(
    Departure,
    ids,
    st.integers(1, 2),
    st.sampled_from(LeftReason),
    st.floats(0, TTL),
    st.sampled_from([0, 1, WHOLE_LIFE]),
)
histories = st.lists(st.one_of(sightings, departures), max_size=80)


def viewing(*histories: list[Observation]) -> View:
    clock = ManualClock()
    hearing = HearingClock(clock, max_gap=3.0)
    view = View(ttl=TTL, clock=clock, hearing=hearing, on_change=lambda _: None)
    for history in histories:
        for observation in history:
            view.observe(observation)
    return view


def exchanged(mine: list[Observation], others: list[Observation], size: int = SIZE) -> list[Observation]:
    """What the one who has `mine` hears from the one who has `others`."""
    found: list[Observation] = []
    for part in encode_view(others, size, digest(mine)):
        assert len(part) <= size
        observations, more = decode_view(part, mine)
        found += observations
    assert not more
    return found


@given(histories, histories, histories)
def test_who_asks_learns_what_the_whole_view_would_have_taught(
    common: list[Observation], mine: list[Observation], others: list[Observation]
) -> None:
    known = list(viewing(common, mine).observations())
    answering = list(viewing(common, others).observations())
    expected, asking = viewing(known, answering), viewing(known, exchanged(known, answering))
    assert [node.version for node in asking.nodes()] == [node.version for node in expected.nodes()]
    assert [node.node_id for node in asking.nodes()] == [node.node_id for node in expected.nodes()]
    for node_id in IDS:
        assert asking.buried(node_id) == expected.buried(node_id)
        assert asking.known_incarnation(node_id) == expected.known_incarnation(node_id)
    for node in asking.nodes():
        true, told = expected.age(node.node_id), asking.age(node.node_id)
        assert true is not None
        assert told is not None
        assert true - 1e-9 <= told <= true + TTL / 255  # older rather than younger, and not by much


def members(count: int) -> list[Observation]:
    return [
        Sighting(NodeInfo(node_id=f"node-{i}", incarnation=10**15 + i, metadata={"zone": "a"}), i % 100 / 2)
        for i in range(count)
    ]


@pytest.mark.parametrize("count", [3, 100, 1000])
def test_views_that_are_alike_cost_a_byte_a_member(count: int) -> None:
    view = members(count)
    (answer,) = encode_view(view, SIZE, digest(list(reversed(view))))
    assert len(digest(view)) + len(answer) < 150 + 2 * count
    assert len(exchanged(view, view)) == count


def test_one_change_costs_its_bucket() -> None:
    view = members(1000)
    whole = sum(map(len, encode_view(view, SIZE)))
    for change in (Sighting(NodeInfo(node_id="new", incarnation=1)), Departure("old", 1, LeftReason.DRAINED)):
        (answer,) = encode_view([*view, change], SIZE, digest(view))
        assert len(answer) < whole / 20
        assert change in exchanged(view, [*view, change])


def test_who_knows_nobody_gets_everything() -> None:
    view = [*members(1000), Departure("gone", 4, LeftReason.EXPIRED)]
    for known in (b"", digest([])):
        found = [each for part in encode_view(view, SIZE, known) for each in decode_view(part)[0]]
        assert sorted(map(repr, found)) == sorted(map(repr, view))


def test_a_large_view_goes_in_parts() -> None:
    nodes = [NodeInfo(node_id=f"n{i}", metadata={"x": "y" * 1000}, incarnation=1) for i in range(1000)]
    view = [*(Sighting(node, 1.5) for node in nodes), Departure("gone", 4, LeftReason.EXPIRED)]
    parts = list(encode_view(view, 256 * 1024))
    decoded = [decode_view(part) for part in parts]
    assert max(map(len, parts)) <= 256 * 1024
    assert [more for _, more in decoded] == [True] * (len(parts) - 1) + [False]
    found = [observation for observations, _ in decoded for observation in observations]
    assert sorted(map(repr, found)) == sorted(map(repr, view))


@pytest.mark.parametrize("char", ["a", "字", "\x01", '"'])
def test_no_part_is_larger_than_it_may_be_whatever_the_ids(char: str) -> None:
    gone = [Departure(char * 120 + f"{i:08d}", 10**15 + i, LeftReason.CRASHED, i / 7) for i in range(10_000)]
    assert set(exchanged([], [*gone])) == set(gone)


@pytest.mark.parametrize("length", [700, 30_000, MAX_RECORD])
def test_no_part_is_larger_than_it_may_be_whatever_the_records(length: int) -> None:
    common = members(2000)
    large = [Sighting(node_of(length, f"large-{i}"), i / 7) for i in range(40)]
    told = exchanged(common, common + large, 2 * MAX_RECORD)
    assert len(told) >= len(common + large)
    assert all(each in told for each in large)


def node_of(length: int, node_id: str = "large") -> NodeInfo:
    """A node whose record has `length` bytes."""
    node = NodeInfo(node_id=node_id, incarnation=1, metadata={"x": ""})
    return msgspec.structs.replace(node, metadata={"x": "y" * (length - len(encode_record(node)))})


def test_a_record_that_is_too_large_is_neither_told_nor_taken() -> None:
    fits, large = Sighting(node_of(MAX_RECORD)), Sighting(node_of(MAX_RECORD - 1, "n"))
    large = Sighting(msgspec.structs.replace(large.node, endpoint="x" * 1000))
    assert exchanged([], [large, fits]) == [fits]
    part = msgspec.json.encode({"nodes": [large, fits]})
    assert decode_view(part) == ([fits], False)


@given(st.binary(max_size=64))
def test_a_hostile_question_gets_the_view(known: bytes) -> None:
    view = members(20)
    found = [each for part in encode_view(view, SIZE, known) for each in decode_view(part)[0]]
    assert sorted(map(repr, found)) == sorted(map(repr, view))


def test_a_question_of_too_many_buckets_is_one_of_none() -> None:
    view = members(20)
    assert list(encode_view(view, SIZE, bytes(8 * MAX_BUCKETS + 8))) == list(encode_view(view, SIZE))


@pytest.mark.parametrize(
    "answer",
    [
        {"same": "AA==", "ages": "", "unit": 1.0},  # too few ages
        {"same": "AA==", "ages": "AQEBAQEB", "unit": 1.0},  # too many
        {"same": "AA==", "ages": "AQEB", "unit": -1.0},
        {"same": "AA==", "ages": "AQEB", "unit": 1e300},
        {"same": "AP8=", "ages": "AQEBAQ==", "unit": 1.0},  # there is no such bucket
        {"same": "AAA=", "ages": "AQEBAQEB", "unit": 1.0},  # the same one again
    ],
)
def test_a_hostile_answer_is_an_invalid_message(answer: dict[str, object]) -> None:
    view = members(3)
    assert decode_view(msgspec.json.encode({"same": "AA==", "ages": "AQEB", "unit": 1.0}), view)[0]
    with pytest.raises(InvalidMessageError):
        decode_view(msgspec.json.encode(answer), view)
