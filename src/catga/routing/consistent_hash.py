"""`ConsistentHash`: the same key goes to the same node, and few keys move when the members change."""

from bisect import bisect
from collections.abc import Sequence
from hashlib import blake2b
from typing import cast

from catga.errors import InvalidMessageError
from catga.messages import key_of
from catga.node import NodeInfo


class Ring:
    """Points of virtual nodes on a circle of 2⁶⁴; a key belongs to the first point after its own.

    D. Karger et al., "Consistent hashing and random trees", STOC 1997.
    """

    __slots__ = ("_owners", "_points")

    def __init__(self, nodes: Sequence[NodeInfo], virtual_nodes: int) -> None:
        points = sorted(
            (hash64(f"{node.node_id}\x00{index}".encode()), node.node_id, node)
            for node in nodes
            for index in range(virtual_nodes)
        )
        self._points = [point for point, _, _ in points]
        self._owners = [node for _, _, node in points]

    def owner(self, point: int) -> NodeInfo:
        """The node to which `point` belongs."""
        index = bisect(self._points, point)
        return self._owners[index if index < len(self._owners) else 0]


class ConsistentHash:
    """By the message's ``key`` (see `catga.message`): every sender picks the same node for the same key.

    Args:
        virtual_nodes: points of a node on the ring; with 160 the busiest of 5 nodes has about 1.1 times the
            mean of the keys.
    """

    def __init__(self, *, virtual_nodes: int = 160) -> None:
        if virtual_nodes < 1:
            raise ValueError(f"virtual_nodes must be at least 1, got {virtual_nodes}")
        self._virtual_nodes = virtual_nodes
        self._last: tuple[Sequence[NodeInfo], Ring] | None = None

    def select(self, nodes: Sequence[NodeInfo], message: object) -> NodeInfo:
        """The node of the message's key.

        Raises:
            InvalidMessageError: the message has no key, or one of a type that has no stable bytes.
        """
        return self._ring(nodes).owner(hash64(key_bytes(key_of(message))))

    def _ring(self, nodes: Sequence[NodeInfo]) -> Ring:
        if self._last is None or self._last[0] is not nodes:
            self._last = (nodes, Ring(nodes, self._virtual_nodes))
        return self._last[1]

    def __repr__(self) -> str:
        return f"ConsistentHash(virtual_nodes={self._virtual_nodes})"


def hash64(data: bytes) -> int:
    """64 bits of BLAKE2b: the same in every process and on every machine, unlike ``hash()``."""
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big")


def key_bytes(key: object) -> bytes:
    """A key's bytes, the same everywhere for equal keys.

    Raises:
        InvalidMessageError: `key` is neither str, bytes, int, bool, a UUID-like object, nor a tuple of them.
    """
    if isinstance(key, str):
        return b"s" + key.encode("utf-8", "surrogatepass")
    if isinstance(key, bytes):
        return b"b" + key
    if isinstance(key, int):
        return b"i%d" % key
    if isinstance(key, tuple):
        parts = [key_bytes(part) for part in cast(tuple[object, ...], key)]
        return b"t" + b"".join(b"%d:%b" % (len(part), part) for part in parts)
    data = getattr(key, "bytes", None)  # uuid.UUID
    if isinstance(data, bytes):
        return b"u" + data
    raise InvalidMessageError(
        f"a key of type {type(key).__qualname__} has no stable bytes: use str, bytes, int, UUID, or a tuple of them"
    )
