"""Records and views as bytes: nobody is trusted."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catga.abc import Departure, Sighting
from catga.errors import InvalidMessageError
from catga.membership.exchange import decode_view
from catga.membership.records import (
    MAX_RECORD,
    decode_announcement,
    decode_record,
    encode_departure,
    encode_record,
)
from catga.node import LeftReason, NodeInfo

NODE = NodeInfo(node_id="ä b", metadata={"zone": "x"}, handles=("a.B",), incarnation=7, sequence=2, last_seen=99.0)


def test_a_record_leaves_its_clock_behind() -> None:
    back = decode_record(encode_record(NODE))
    assert (back.node_id, back.metadata, back.handles, back.version) == ("ä b", {"zone": "x"}, ("a.B",), (7, 2))
    assert (back.last_seen, b"last_seen" in encode_record(NODE)) == (0.0, False)


def test_a_last_seen_from_outside_is_not_believed() -> None:
    assert decode_record(b'{"node_id":"a","last_seen":1e9}').last_seen == 0.0


def test_a_departure_is_told_from_a_record() -> None:
    departure = Departure("a", 3, LeftReason.CRASHED)
    assert decode_announcement(encode_departure(departure)) == departure
    assert decode_announcement(encode_record(NODE)) == Sighting(decode_record(encode_record(NODE)))


@given(st.one_of(st.binary(), st.text().map(str.encode), st.from_regex(rb'\A\{"(node_id|left)":.{0,40}\Z')))
def test_foreign_data_are_an_invalid_message_or_a_sound_observation(data: bytes) -> None:
    for decode in (decode_announcement, decode_record, decode_view):
        try:
            found: Any = decode(data)
        except InvalidMessageError:
            continue
        if decode is decode_record:
            assert 1 <= len(found.node_id) <= 128


@pytest.mark.parametrize("data", [b"[" * 10_000, b'{"node_id":"' + b"x" * MAX_RECORD + b'"}', b'{"node_id":"\xff"}'])
def test_hostile_data_are_an_invalid_message(data: bytes) -> None:
    with pytest.raises(InvalidMessageError):
        decode_record(data)
    with pytest.raises(InvalidMessageError):
        decode_announcement(data)


@pytest.mark.parametrize(
    "data",
    [
        b'{"left":"","incarnation":1,"reason":"drained"}',
        b'{"left":"a","incarnation":-1,"reason":"drained"}',
        b'{"left":"a","incarnation":99999999999999999999,"reason":"drained"}',
    ],
)
def test_a_departure_is_as_bounded_as_a_record(data: bytes) -> None:
    """Else one message with a huge incarnation would bury an id for good."""
    with pytest.raises(InvalidMessageError):
        decode_announcement(data)


def test_a_record_that_is_too_large_says_what_to_do() -> None:
    node = NodeInfo(node_id="a", metadata={"x": "y" * MAX_RECORD})
    with pytest.raises(InvalidMessageError, match="its metadata"):
        encode_record(node)
