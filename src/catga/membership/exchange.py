"""Views as bytes: what one node asks another for, and is told. Decoding trusts nobody.

Who asks sends a digest of its own view: lives and ends fall into buckets by their ids, and each bucket gives 8 bytes.
Who answers sends the buckets that differ, and of the members in all others one byte each: how long ago they were last
heard of. So a cluster at rest does not send its records round again and again (A. Demers et al., "Epidemic algorithms
for replicated database maintenance", PODC 1987, section 1.3: checksums before contents).
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import Annotated
from zlib import crc32

import msgspec

from catga.abc import Departure, Observation, Sighting
from catga.errors import InvalidMessageError
from catga.membership.records import MALFORMED, MAX_RECORD, Left
from catga.node import NodeInfo

HASH = 8
"""Bytes of a bucket's hash: two that differ are taken for equal once in 2⁶⁴ times."""
BUCKET = 16
"""Lives and ends in a bucket, on average: what one change makes an answer longer by."""
MAX_BUCKETS = 256

MAX_TOLD = MAX_RECORD + 128
"""Bytes of a record as it is told: with its age and the load that was heard of last."""
OVERHEAD = 256
"""Bytes of a part that are no observation: its frame, and a signature."""

Unit = Annotated[float, msgspec.Meta(ge=0, le=1e9)]


class Part(msgspec.Struct, omit_defaults=True):
    """A part of a view, for another node to take in.

    Attributes:
        nodes: members, and the seconds since they were last heard of.
        same: numbers of the buckets that are alike on both sides, a byte each.
        ages: of the members in them, sorted by id, in units, a byte each.
        unit: seconds.
    """

    nodes: list[tuple[NodeInfo, float]] = []
    left: list[Left] = []
    more: bool = False
    same: bytes = b""
    ages: bytes = b""
    unit: Unit = 0.0


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Part)


def digest(view: Sequence[Observation]) -> bytes:
    """A hash of each bucket of `view`, whatever the order, the ages and the loads in it."""
    return b"".join(map(_hash, _buckets(view, _count(view))))


def encode_view(view: Iterable[Observation], size: int, known: bytes = b"") -> Iterator[bytes]:
    """A view in parts, each of which fits into `size` bytes with a signature; the last says that no more come.

    Args:
        known: `digest` of what the other side has: only what differs is told, and the ages of the rest.
    """
    part, room = Part(), size - OVERHEAD
    if known and not len(known) % HASH and len(known) <= MAX_BUCKETS * HASH:
        part, view = _compared(view, known)
    part.more, used = True, len(_encoder.encode(part))
    for observation in view:
        told = _told(observation)
        length = len(_encoder.encode(told)) + 1
        if length > min(MAX_TOLD, room):
            continue
        if used + length > room:
            yield _encoder.encode(part)
            part, used = Part(more=True), 0
        used += length
        if isinstance(told, Left):
            part.left.append(told)
        else:
            part.nodes.append(told)
    part.more = False
    yield _encoder.encode(part)


def decode_view(data: bytes, known: Sequence[Observation] = ()) -> tuple[list[Observation], bool]:
    """The observations in one part of a view, and whether more parts follow. Records that are larger than they may
    be are left out.

    Args:
        known: what the `digest` in the question was of.

    Raises:
        InvalidMessageError: it is no such part.
    """
    try:
        part = _decoder.decode(data)
    except MALFORMED as error:
        raise InvalidMessageError(f"not a part of a view: {error}") from error
    sightings = (Sighting(node, max(age, 0.0)) for node, age in part.nodes)
    found: list[Observation] = [each for each in sightings if len(_encoder.encode(_told(each))) < MAX_TOLD]
    found += (
        Departure(left.left, left.incarnation, left.reason, max(left.age, 0.0), left.sequence) for left in part.left
    )
    if part.same:
        buckets = dict(enumerate(_buckets(known, _count(known))))
        members = _members(buckets.get(number, ()) for number in set(part.same))
        if len(members) != len(part.ages):
            raise InvalidMessageError(f"{len(part.ages)} ages for {len(members)} members")
        found += (Sighting(each.node, age * part.unit) for each, age in zip(members, part.ages, strict=True))
    return found, part.more


def _told(observation: Observation) -> tuple[NodeInfo, float] | Left:
    if isinstance(observation, Departure):
        return Left(*observation)
    return msgspec.structs.replace(observation.node, last_seen=0.0), observation.age


def _compared(view: Iterable[Observation], known: bytes) -> tuple[Part, list[Observation]]:
    """The part that tells what of `view` the other side has, too, and what it has not."""
    buckets = _buckets(view, len(known) // HASH)
    same = [i for i, bucket in enumerate(buckets) if _hash(bucket) == known[i * HASH : (i + 1) * HASH]]
    ages = [max(each.age, 0.0) for each in _members(buckets[i] for i in same)]
    unit = max(ages, default=0.0) / 255
    rounded = [min(math.ceil(age / unit), 255) if unit else 0 for age in ages]  # older rather than younger
    for i in same:
        buckets[i].clear()
    rest = [observation for bucket in buckets for observation in bucket]
    return Part(same=bytes(same), ages=bytes(rounded), unit=unit), rest


def _count(view: Sequence[Observation]) -> int:
    return min(max(len(view) // BUCKET, 1), MAX_BUCKETS)


def _buckets(view: Iterable[Observation], count: int) -> list[list[Observation]]:
    buckets: list[list[Observation]] = [[] for _ in range(count)]
    for observation in view:
        buckets[crc32(_id(observation).encode()) % count].append(observation)
    return buckets


def _members(buckets: Iterable[Iterable[Observation]]) -> list[Sighting]:
    found = [each for bucket in buckets for each in bucket if isinstance(each, Sighting)]
    return sorted(found, key=_id)


def _hash(bucket: Iterable[Observation]) -> bytes:
    # A JSON list, as ids may have any characters in them.
    return blake2b(_encoder.encode(sorted(map(_line, bucket))), digest_size=HASH).digest()


def _line(observation: Observation) -> tuple[str, int, int, bool]:
    if isinstance(observation, Departure):
        return observation.node_id, *observation.version, True
    return observation.node.node_id, *observation.node.version, False


def _id(observation: Observation) -> str:
    return observation.node_id if isinstance(observation, Departure) else observation.node.node_id
