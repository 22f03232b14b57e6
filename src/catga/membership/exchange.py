"""Views as bytes: what one node asks another for, and is told. Decoding trusts nobody."""

from collections.abc import Iterable, Iterator

import msgspec

from catga.abc import Departure, Observation, Sighting
from catga.errors import InvalidMessageError
from catga.membership.records import MALFORMED, MAX_RECORD, Left
from catga.node import NodeInfo


class Part(msgspec.Struct):
    """A part of a view, for another node to take in."""

    nodes: list[tuple[NodeInfo, float]] = []
    left: list[Left] = []
    more: bool = False


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Part)


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
        part = _decoder.decode(data)
    except MALFORMED as error:
        raise InvalidMessageError(f"not a part of a view: {error}") from error
    sightings: list[Observation] = [Sighting(node, max(age, 0.0)) for node, age in part.nodes]
    return [
        *sightings,
        *(Departure(left.left, left.incarnation, left.reason, max(left.age, 0.0)) for left in part.left),
    ], part.more
