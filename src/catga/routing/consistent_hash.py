"""`ConsistentHash`: the same key goes to the same node, and few keys move when the members change."""

from collections import OrderedDict
from collections.abc import Sequence
from math import ceil

from catga.keys import check_key, key_bytes
from catga.messages import key_of
from catga.node import NodeInfo
from catga.routing.candidates import Candidates, fails_more
from catga.routing.ring import Ring, hash64

KEPT_RINGS = 8


class ConsistentHash:
    """By the message's ``key`` (see `catga.message`): every sender picks the same node for the same key.

    A node that joins takes over only the keys that are now its own, 1/N of all; a node that leaves, is
    suspected, or failed this call is passed over for the next on the ring, and only its keys move.

    Order: calls of one sender with one key reach their node in the order in which they were sent, and ``async``
    handlers start in that order. When a key moves, calls under way end at the former node while new ones go to
    the new one: a sender that needs order across a move awaits each call before the next.

    Args:
        virtual_nodes: points of a node on the ring; with 512 the busiest of 5 nodes has at most 1.1 times the
            mean of the keys, but for one set of ids in a hundred.
        max_load: bounded loads: a node that has more than so many times the mean of this sender's calls in
            flight is passed over, and a hot key spills over to the next on the ring. At least 1; 1.25 is a
            good value. Senders no longer agree on the keys that spill over. None spill over to a node that fails more
            of its calls than others do.

    V. Mirrokni, M. Thorup, M. Zadimoghaddam, "Consistent hashing with bounded loads", SODA 2018.
    """

    chooses_by_key = True

    def __init__(self, *, virtual_nodes: int = 512, max_load: float | None = None) -> None:
        if virtual_nodes < 1:
            raise ValueError(f"virtual_nodes must be at least 1, got {virtual_nodes}")
        if max_load is not None and not 1 <= max_load < float("inf"):
            raise ValueError(f"max_load must be 1 or more (1.25 is a good value), got {max_load}")
        self._virtual_nodes = virtual_nodes
        self._max_load = max_load
        self._plain: tuple[Sequence[NodeInfo], Candidates] | None = None
        self._rings: OrderedDict[frozenset[str], Ring] = OrderedDict()
        self.rebuilds = 0
        """How many rings were made: one for each set of nodes met."""

    def select(self, nodes: Sequence[NodeInfo], message: object) -> NodeInfo:
        """The node of the message's key.

        Raises:
            InvalidMessageError: the message has no key, or one of a type that has no stable bytes.
        """
        candidates = nodes if isinstance(nodes, Candidates) else self._wrapped(nodes)
        point = hash64(key_bytes(key_of(message)))
        memo = candidates.whole.memo
        ring: Ring = memo.get(self) or self._ring(candidates.whole)
        found = candidates.by_id(ring.owner(point))
        if found is None or (self._max_load is not None and candidates.stats[found.node_id].inflight):
            return self._walk(ring, point, candidates)
        return found

    def check(self, message_type: type) -> None:
        """Raise InvalidMessageError if messages of this type certainly have no usable key."""
        check_key(message_type)

    def _walk(self, ring: Ring, point: int, candidates: Candidates) -> NodeInfo:
        able = filter(None, map(candidates.by_id, ring.walk(point)))
        if self._max_load is None:
            return next(able)
        stats = candidates.stats
        known = [stats[node.node_id] for node in candidates]
        # One that fails has nothing in flight: nobody's calls spill over to it.
        bad = {each.node_id for each in known if each.trouble and fails_more(each, known)}
        mean = (sum(each.inflight for each in known if each.node_id not in bad) + 1) / (len(known) - len(bad))
        limit = ceil(self._max_load * mean)
        owner = next(able)
        if stats[owner.node_id].inflight < limit:
            return owner
        return next(node for node in able if stats[node.node_id].inflight < limit and node.node_id not in bad)

    def _ring(self, whole: Candidates) -> Ring:
        ids = frozenset(node.node_id for node in whole)
        ring = self._rings.get(ids)
        if ring is None:
            near = next((r for r in reversed(self._rings.values()) if 4 * len(r.ids ^ ids) < len(ids)), None)
            ring = Ring(ids, self._virtual_nodes) if near is None else near.changed(ids)
            self.rebuilds += 1
            self._rings[ids] = ring
            if len(self._rings) > KEPT_RINGS:
                self._rings.popitem(last=False)
        self._rings.move_to_end(ids)
        whole.memo[self] = ring
        return ring

    def _wrapped(self, nodes: Sequence[NodeInfo]) -> Candidates:
        if self._plain is None or self._plain[0] is not nodes:
            self._plain = (nodes, Candidates(nodes))
        return self._plain[1]

    def __deepcopy__(self, _: object) -> "ConsistentHash":
        return self  # a choice leaves nothing behind but what is cached

    def __repr__(self) -> str:
        bound = "" if self._max_load is None else f"max_load={self._max_load:g}"
        return f"ConsistentHash({bound})"
