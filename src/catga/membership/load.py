"""This node's own load, and when the others are told of it apart from what is sent anyway."""

import math
from collections.abc import Callable

import msgspec

from catga.node import NodeInfo


class OwnLoad:
    """The load of one node. Replies and pongs carry it all the time; its record only when it moves to another quarter.

    Args:
        load: what it is now.
        interval: seconds between two announcements of a change, at least.
        clock: seconds, monotonic.
    """

    def __init__(self, load: Callable[[], float], interval: float, clock: Callable[[], float]) -> None:
        self.now = load
        self._interval = interval
        self._clock = clock
        self._announced = 0  # the quarter
        self._due = -math.inf

    def put_into(self, record: NodeInfo) -> NodeInfo:
        """Return `record` with the load as it is now."""
        return msgspec.structs.replace(record, load=round(self.now(), 3))

    def announced(self, record: NodeInfo) -> None:
        """The others are told of `record`."""
        self._announced = _quarter(record.load)

    def is_due(self, record: NodeInfo) -> bool:
        """Whether the others should be told of the load in `record` now: the first time at once."""
        now = self._clock()
        if _quarter(record.load) == self._announced or now < self._due:
            return False
        self._due = now + self._interval
        return True


def _quarter(load: float) -> int:
    """Loads of one quarter are not worth an announcement; nor is what is beyond twice full."""
    return min(int(load * 4), 8)
