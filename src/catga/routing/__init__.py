"""Routing strategies, one file each."""

from catga.routing.consistent_hash import ConsistentHash
from catga.routing.round_robin import RoundRobin

__all__ = ["ConsistentHash", "RoundRobin"]
