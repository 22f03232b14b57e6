"""`Stats`: a request that every node answers by itself, for tools that look at a cluster."""

import os
import platform
import time
from collections import Counter

import msgspec

from catga._version import __version__
from catga.messages import Request, message
from catga.rpc.tally import Tally


class TypeStats(msgspec.Struct, frozen=True, kw_only=True):
    """One message type on one node, since the node's start.

    Attributes:
        calls: that ended here, well or not.
        errors: of these.
        histogram: index in `catga.rpc.tally.BOUNDS` → calls that took so long, waiting for a place included.
        failovers: attempts of this node, as a caller, that it had to make again elsewhere.
    """

    calls: int = 0
    errors: int = 0
    histogram: dict[int, int] = {}
    failovers: int = 0


class NodeStats(msgspec.Struct, frozen=True, kw_only=True):
    """What a node tells of itself.

    Attributes:
        version: of catga.
        clock: the node's wall clock, seconds since 1970.
        uptime: seconds.
        inflight: calls that run or wait.
        ghosts: ids of other members → seconds since a process with an older incarnation of it was heard.
        types: by wire name.
        counters: `DistributedMediator.counters`.
    """

    node_id: str
    version: str = ""
    python: str = ""
    host: str = ""
    pid: int = 0
    clock: float = 0.0
    uptime: float = 0.0
    inflight: int = 0
    ghosts: dict[str, float] = {}
    types: dict[str, TypeStats] = {}
    counters: dict[str, int] = {}


@message(name="catga.Stats", idempotent=True, timeout=2.0)
class Stats(msgspec.Struct, Request[NodeStats], frozen=True):
    """Ask a node, by `send_to_node`, for its `NodeStats`. Without `detail`, for those of fixed size only."""

    detail: bool = True


class Recorder:
    """The counts of one node, kept while its handlers come and go."""

    def __init__(self) -> None:
        self.failovers: Counter[str] = Counter()
        """Wire name → attempts that had to be made again elsewhere."""
        self._tallies: dict[str, Tally] = {}
        self._started = time.monotonic()

    def tally(self, name: str) -> Tally:
        """The tally of a message type."""
        return self._tallies.setdefault(name, Tally())

    def types(self) -> dict[str, TypeStats]:
        """What was counted, by wire name."""
        names = sorted({*self._tallies, *self.failovers} - {"catga.Stats"})
        return {name: _type_stats(self.tally(name), self.failovers[name]) for name in names}

    def read(self, node_id: str, **fields: object) -> NodeStats:
        """The node's stats; `fields` are those that others know."""
        known: dict[str, object] = {
            "version": __version__,
            "python": platform.python_version(),
            "host": platform.node(),
            "pid": os.getpid(),
            "clock": time.time(),
            "uptime": time.monotonic() - self._started,
        }
        return msgspec.structs.replace(NodeStats(node_id=node_id), **known, **fields)


def _type_stats(tally: Tally, failovers: int) -> TypeStats:
    return TypeStats(
        calls=sum(tally.histogram),
        errors=tally.errors,
        histogram={index: count for index, count in enumerate(tally.histogram) if count},
        failovers=failovers,
    )
