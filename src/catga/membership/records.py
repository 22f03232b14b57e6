"""A member's record as bytes: what is stored and announced. Decoding trusts nobody."""

import msgspec

from catga.errors import InvalidMessageError
from catga.node import NodeInfo

MAX_RECORD = 65_536
"""Bytes of one record."""

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(NodeInfo)


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
            f"the record of node {node.node_id!r} has {len(data)} bytes, the limit is {MAX_RECORD}: shorten its metadata"
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
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidMessageError(f"not a node record: {error}") from error
    return msgspec.structs.replace(node, last_seen=0.0) if node.last_seen else node
