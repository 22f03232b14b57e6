"""Routing strategies, one file each.

A strategy is anything with ``select(nodes, message)`` (`catga.abc.RoutingStrategy`). `Where` and `PreferZone`
narrow the choice of another.
"""

from catga.routing.candidates import Candidates, NodeStats, Stats
from catga.routing.consistent_hash import ConsistentHash
from catga.routing.filters import PreferZone, Where
from catga.routing.load_based import LoadBased
from catga.routing.local_first import LocalFirst
from catga.routing.queue import Queue
from catga.routing.random_choice import Random
from catga.routing.round_robin import RoundRobin
from catga.routing.weighted import Weighted

__all__ = [
    "Candidates",
    "ConsistentHash",
    "LoadBased",
    "LocalFirst",
    "NodeStats",
    "PreferZone",
    "Queue",
    "Random",
    "RoundRobin",
    "Stats",
    "Weighted",
    "Where",
]
