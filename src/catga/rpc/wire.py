"""What is in a message on the bus: one batch of frames, as a msgpack array.

A batch leaves a node for one subject. Its header says who sent it and how busy that node is, so every
reply and every pong is also a load report and a sign of life. Bodies are opaque bytes: one that is
malformed harms only its own frame.

    batch   [version, node_id, incarnation, load, reply_to, [frame, …], epoch, oldest]
    call    [0, id, name, ttl, body, key, headers]
    reply   [1, id, body]
    fault   [2, id, code, text, details, is_retryable, execution]
    ping    [3, nonce]
    pong    [4, incarnation, nonce]
    cancel  [5, id]

Fields are only ever added at the end; a reader ignores those it does not know.
"""

from typing import Any, TypeAlias

import msgspec

from catga.errors import CatgaError, Execution, InvalidMessageError
from catga.node import Incarnation, Load, NodeId

VERSION = 1
SMALL = 4096
"""Bytes that every broker takes: a body of so many need not be compared with the broker's limit."""
OVERHEAD = 512
"""Bytes of a batch around one body, at most (ids and type names included)."""


class Call(msgspec.Struct, array_like=True, tag=0, gc=False):
    """Run the handler of the message type ``name``.

    Attributes:
        id: the caller's, for the reply.
        ttl: seconds left until the caller gives up. Relative, as clocks differ.
        key: the id of the first attempt, where this one repeats it; with the caller's ``reply_to`` it names
            the request wherever it arrives.
    """

    id: int
    name: str
    ttl: float
    body: bytes
    key: int = 0
    headers: dict[str, str] | None = None


class Reply(msgspec.Struct, array_like=True, tag=1, gc=False):
    """The handler's value."""

    id: int
    body: bytes


class Fault(msgspec.Struct, array_like=True, tag=2):
    """Why there is no value."""

    id: int
    code: str
    text: str
    details: dict[str, Any]
    is_retryable: bool
    execution: Execution


class Ping(msgspec.Struct, array_like=True, tag=3, gc=False):
    """Are you there? Answered with a `Pong` that has the same ``nonce``, unless it is one's own."""

    nonce: int = 0


class Pong(msgspec.Struct, array_like=True, tag=4, gc=False):
    """I am. ``incarnation`` is the newest that I know of the one who asks, alive or buried."""

    incarnation: Incarnation
    nonce: int = 0


class Cancel(msgspec.Struct, array_like=True, tag=5, gc=False):
    """Nobody waits for the reply to this call any more."""

    id: int


Frame: TypeAlias = Call | Reply | Fault | Ping | Pong | Cancel


class Batch(msgspec.Struct, array_like=True):
    """Frames from one node to one subject.

    Attributes:
        epoch: counts how often the node's link came back.
        oldest: of this node's calls, those with smaller ids have ended; 0 from who does not tell.
    """

    version: int
    node_id: NodeId
    incarnation: Incarnation
    load: Load
    reply_to: str
    frames: list[Frame]
    epoch: int = 0
    oldest: int = 0


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Batch)

encode_batch = _encoder.encode


def decode_batch(data: bytes) -> Batch:
    """The batch in `data`.

    Raises:
        InvalidMessageError: garbage, or a version this code does not speak.
    """
    try:
        batch = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError) as error:
        raise InvalidMessageError(f"not a batch of frames: {error}") from error
    if batch.version != VERSION:
        raise InvalidMessageError(f"wire version {batch.version}, this node speaks {VERSION}")
    return batch


def fault_of(call_id: int, error: CatgaError) -> Fault:
    """The frame that carries `error`; what of it cannot be encoded goes as text, escaped."""
    fault = Fault(call_id, error.code, error.message, error.details, error.is_retryable, error.execution)
    try:
        _encoder.encode(fault)
    except (TypeError, ValueError, RecursionError, OverflowError):
        fault.text = _escaped(error.message)
        fault.details = {_escaped(key): _escaped(value) for key, value in error.details.items()}
    return fault


def _escaped(value: object) -> str:
    """`value` as text without lone surrogates, which no encoder takes (a file's name may have them)."""
    try:
        text = str(value)
    except RecursionError:
        text = "…"
    return text.encode("utf-8", "backslashreplace").decode()


def error_of(fault: Fault) -> CatgaError:
    """The error that `fault` carries, as the class that was raised."""
    return CatgaError.rebuild(
        fault.code, fault.text, fault.details, is_retryable=fault.is_retryable, execution=fault.execution
    )
