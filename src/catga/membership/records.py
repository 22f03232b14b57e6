"""A member's record as bytes: what is stored and announced. Decoding trusts nobody."""

import msgspec

from catga.abc import Departure, Observation, RecordSigner, Sighting
from catga.errors import InvalidMessageError
from catga.node import WHOLE_LIFE, Counter, Incarnation, LeftReason, NodeId, NodeInfo

MAX_RECORD = 65_536
"""Bytes of one record."""


class Left(msgspec.Struct, frozen=True, omit_defaults=True):
    """The announcement of a departure."""

    left: NodeId
    incarnation: Incarnation
    reason: LeftReason
    age: float = 0.0
    sequence: Counter = WHOLE_LIFE


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

    def close_bytes(self, data: bytes, label: str) -> bytes:
        """`data`, whatever it is, as it goes out, bound to `label`."""
        return data if self._signer is None else self.close(_encoder.encode(_Bytes(data)), label)

    def open_bytes(self, data: bytes, label: str) -> bytes:
        """What `close_bytes` was given. Raises `InvalidMessageError` if it is not signed as it should."""
        if self._signer is None:
            return data
        try:
            return _bytes_decoder.decode(self.open(data, label)).data
        except MALFORMED as error:
            raise InvalidMessageError(f"not what was signed: {error}") from error


class _Bytes(msgspec.Struct):
    """Any bytes as a JSON object, as only those can be signed."""

    data: bytes


_encoder = msgspec.json.Encoder()
_bytes_decoder = msgspec.json.Decoder(_Bytes)
_decoder = msgspec.json.Decoder(NodeInfo)
_left_decoder = msgspec.json.Decoder(Left)
MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoders raise for hostile bytes."""


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
    except MALFORMED as error:
        raise InvalidMessageError(f"not a node record: {error}") from error
    return msgspec.structs.replace(node, last_seen=0.0) if node.last_seen else node


def encode_departure(departure: Departure) -> bytes:
    """A departure as it is announced, on the same subject as records."""
    return _encoder.encode(Left(*departure._replace(age=0.0)))


def decode_announcement(data: bytes) -> Observation:
    """A record or a departure, as heard on the change subject.

    Raises:
        InvalidMessageError: it is neither.
    """
    if data.startswith(b'{"left":'):
        try:
            left = _left_decoder.decode(data)
        except MALFORMED as error:
            raise InvalidMessageError(f"not a departure: {error}") from error
        return Departure(left.left, left.incarnation, left.reason, sequence=left.sequence)
    return Sighting(decode_record(data))
