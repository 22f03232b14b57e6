"""What is in a message on the bus: one batch of frames, as a msgpack array.

A batch leaves a node for one subject. Its header says who sent it and how busy that node is, so every
reply and every pong is also a load report and a sign of life. Bodies are opaque bytes: one that is
malformed harms only its own frame.

    batch   [version, node_id, incarnation, load, reply_to, [frame, …], epoch, oldest, clock]
    call    [0, id, name, ttl, body, key, headers]
    reply   [1, id, body]
    fault   [2, id, code, text, details, is_retryable, execution]
    ping    [3, nonce]
    pong    [4, incarnation, nonce, ended]
    cancel  [5, id]
    ask     [6, nonce, node_id, incarnation]
    tell    [7, nonce, age]

Fields are only ever added at the end; a reader ignores those it does not know.
"""

from collections.abc import Callable
from typing import Annotated, Any, TypeAlias

import msgspec

from catga.errors import Execution, InvalidMessageError
from catga.node import Incarnation, Load, NodeId

VERSION = 1
SMALL = 4096
"""Bytes that every broker takes: a body of so many need not be compared with the broker's limit."""
MAX_BAD_FRAMES = 16
"""Frames of a batch that cannot be read, until the rest of it is not looked at."""
Ended: TypeAlias = Annotated[int, msgspec.Meta(ge=-1, lt=2**53)]
OVERHEAD = 512
"""Bytes of a batch around one body, at most (ids and type names included)."""


Clock: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=1e12)]


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
    """I am. Also sent unasked to a node that does not know that it was buried.

    Attributes:
        incarnation: the newest that I know of the one who asks, alive or buried; 0 if I do not know it.
        ended: the sequence up to which I have buried it in that incarnation, though it may live; -1 if I have not.
    """

    incarnation: Incarnation
    nonce: int = 0
    ended: Ended = -1


class Cancel(msgspec.Struct, array_like=True, tag=5, gc=False):
    """Nobody waits for the reply to this call any more."""

    id: int


class Ask(msgspec.Struct, array_like=True, tag=6, gc=False):
    """Ping that node, and say in a `Tell` with this ``nonce`` how long you have not heard of it."""

    nonce: int
    node_id: NodeId
    incarnation: Incarnation


class Tell(msgspec.Struct, array_like=True, tag=7, gc=False):
    """The answer to an `Ask`: 0 if the node answered, else the seconds since its last sign of life."""

    nonce: int
    age: Annotated[float, msgspec.Meta(ge=0, le=1e9)]


Frame: TypeAlias = Call | Reply | Fault | Ping | Pong | Cancel | Ask | Tell


class Batch(msgspec.Struct, array_like=True):
    """Frames from one node to one subject.

    Attributes:
        epoch: counts how often the node's link came back.
        oldest: of this node's calls, those with smaller ids have ended; 0 from who does not tell.
        clock: seconds of the sender's `catga.rpc.clock.boottime`, when the batch left; 0 likewise.
    """

    version: int
    node_id: NodeId
    incarnation: Incarnation
    load: Load
    reply_to: str
    frames: list[Frame]
    epoch: int = 0
    oldest: int = 0
    clock: Clock = 0.0


class _Loose(msgspec.Struct, array_like=True):
    """A `Batch` whose frames are not looked at yet."""

    version: int
    node_id: NodeId
    incarnation: Incarnation
    load: Load
    reply_to: str
    frames: list[msgspec.Raw]
    epoch: int = 0
    oldest: int = 0
    clock: Clock = 0.0


_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError)
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Batch)
_loose_decoder = msgspec.msgpack.Decoder(_Loose)
_frame_decoder: "msgspec.msgpack.Decoder[Frame]" = msgspec.msgpack.Decoder(Frame)

encode_batch = _encoder.encode
encode_frame = _encoder.encode
decode_frame = _frame_decoder.decode


def decode_batch(data: bytes, on_bad_frame: Callable[[str], None] = lambda _: None) -> Batch:
    """The batch in `data`, without the frames that are none: each harms itself only.

    Args:
        on_bad_frame: told of each of those.

    Raises:
        InvalidMessageError: garbage, or a version this code does not speak.
    """
    try:
        batch = _decoder.decode(data)
    except _MALFORMED:
        batch = _readable(data, on_bad_frame)
    if batch.version != VERSION:
        raise _unspoken(batch.version)
    return batch


def _readable(data: bytes, on_bad_frame: Callable[[str], None]) -> Batch:
    """The batch in `data`, of which some frames, or all else, cannot be read."""
    try:
        loose = _loose_decoder.decode(data)
    except _MALFORMED as error:
        raise InvalidMessageError(f"not a batch of frames: {error}") from error
    if loose.version != VERSION:
        raise _unspoken(loose.version)
    frames: list[Frame] = []
    bad = 0
    for raw in loose.frames:
        try:
            frames.append(decode_frame(raw))
        except _MALFORMED as error:
            on_bad_frame(f"not a frame: {error}")
            bad += 1
            if bad == MAX_BAD_FRAMES:
                break
    header = loose.version, loose.node_id, loose.incarnation, loose.load, loose.reply_to
    return Batch(*header, frames, loose.epoch, loose.oldest, loose.clock)


def _unspoken(version: int) -> InvalidMessageError:
    return InvalidMessageError(f"wire version {version}, this node speaks {VERSION}")
