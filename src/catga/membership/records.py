"""A member's record as bytes: what is stored and announced. Decoding trusts nobody."""

from collections.abc import Iterable, Iterator

import msgspec

from catga.abc import Departure, Observation, RecordSigner, Sighting
from catga.errors import InvalidMessageError
from catga.node import Incarnation, LeftReason, NodeId, NodeInfo

MAX_RECORD = 65_536
"""Bytes of one record."""


class Left(msgspec.Struct, frozen=True, omit_defaults=True):
    """The announcement of a departure."""

    left: NodeId
    incarnation: Incarnation
    reason: LeftReason
    age: float = 0.0


class Part(msgspec.Struct):
    """A part of a view, for another node to take in."""

    nodes: list[tuple[NodeInfo, float]] = []
    left: list[Left] = []
    more: bool = False


class Seal:
    """Signs records on their way out and checks those that come in; does nothing without a signer.

    Args:
        label: what the signatures are for: one cluster's records are worthless in another.
    """

    def __init__(self, signer: RecordSigner | None, label: str) -> None:
        self._signer = signer
        self._label = label

    def close(self, data: bytes, label: str = "") -> bytes:
        """`data`, a JSON object, as it goes out; `label` binds it to more than the cluster."""
        return data if self._signer is None else self._signer.seal_record(self._label + label, data)

    def open(self, data: bytes, label: str = "") -> bytes:
        """What `close` was given. Raises `InvalidMessageError` if it is not signed as it should."""
        return data if self._signer is None else self._signer.open_record(self._label + label, data)


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(NodeInfo)
_left_decoder = msgspec.json.Decoder(Left)
_part_decoder = msgspec.json.Decoder(Part)
_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def encode_record(node: NodeInfo) -> bytes:
    """The record as JSON. ``last_seen`` stays behind: it is a reading of this machine's clock.

    Raises:
        InvalidMessageError: metadata and handles together make more than 64 KiB.
    """
    fields = msgspec.to_builtins(node)
    del fields["last_seen"]
    data = _encoder.encode(fields)
    if len(data) > MAX_RECORD:
        raise InvalidMessageError(
            f"the record of node {node.node_id!r} has {len(data)} bytes, the limit is {MAX_RECORD}: cut its metadata"
        )
    return data


def decode_record(data: bytes) -> NodeInfo:
    """The record in `data`.

    Raises:
        InvalidMessageError: it is no record, whatever else it may be.
    """
    if len(data) > MAX_RECORD:
        raise InvalidMessageError(f"a record of {len(data)} bytes, the limit is {MAX_RECORD}")
    try:
        node = _decoder.decode(data)
    except _MALFORMED as error:
        raise InvalidMessageError(f"not a node record: {error}") from error
    return msgspec.structs.replace(node, last_seen=0.0) if node.last_seen else node


def encode_departure(departure: Departure) -> bytes:
    """A departure as it is announced, on the same subject as records."""
    return _encoder.encode(Left(departure.node_id, departure.incarnation, departure.reason))


def decode_announcement(data: bytes) -> Observation:
    """A record or a departure, as heard on the change subject.

    Raises:
        InvalidMessageError: it is neither.
    """
    if data.startswith(b'{"left":'):
        try:
            left = _left_decoder.decode(data)
        except _MALFORMED as error:
            raise InvalidMessageError(f"not a departure: {error}") from error
        return Departure(left.left, left.incarnation, left.reason)
    return Sighting(decode_record(data))


def encode_view(observations: Iterable[Observation], size: int) -> Iterator[bytes]:
    """A whole view in parts of about `size` bytes at most; the last says that no more come."""
    part, used = Part(more=True), 0
    for observation in observations:
        if isinstance(observation, Departure):
            part.left.append(Left(*observation))
            used += 200 + len(observation.node_id)
        else:
            node = (msgspec.structs.replace(observation.node, last_seen=0.0), observation.age)
            part.nodes.append(node)
            used += len(_encoder.encode(node)) + 2
        if used > size - MAX_RECORD:
            yield _encoder.encode(part)
            part, used = Part(more=True), 0
    part.more = False
    yield _encoder.encode(part)


def decode_view(data: bytes) -> tuple[list[Observation], bool]:
    """The observations in one part of a view, and whether more parts follow.

    Raises:
        InvalidMessageError: it is no such part.
    """
    try:
        part = _part_decoder.decode(data)
    except _MALFORMED as error:
        raise InvalidMessageError(f"not a part of a view: {error}") from error
    sightings: list[Observation] = [Sighting(node, max(age, 0.0)) for node, age in part.nodes]
    return [
        *sightings,
        *(Departure(left.left, left.incarnation, left.reason, max(left.age, 0.0)) for left in part.left),
    ], part.more
