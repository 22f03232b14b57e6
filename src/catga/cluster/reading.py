"""`Reading`: what telemetry tells of a node, in whatever state that is."""

from collections.abc import Mapping
from typing import Literal

import msgspec

from catga.node import NodeState

Health = Literal["healthy", "degraded", "fenced", "closed"]

LEVELS = ("pending_calls",)
"""Which of a node's counts go down again."""
EVENTS = (
    "batches",
    "deaf",
    "dropped_expired",
    "dropped_pongs",
    "failovers",
    "foreign_replies",
    "garbage",
    "heartbeats",
    "internal_errors",
    "late_replies",
    "missing_bounces",
    "not_sent",
    "refused",
    "refused_by_broker",
    "repeated",
    "undeliverable",
)
"""The names of those that only grow, for a node that has not started yet."""


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """A node, as it is now.

    Attributes:
        phase: ``new`` before its start, ``ended`` after its stop.
        is_ready: whether it should get traffic.
        nodes: how many members this node knows, by their state. Empty unless it runs.
        load: its own.
        events: how often what happened since its start, by name. They stay when it has ended.
        pending_calls: its calls that wait for an answer.
    """

    node_id: str
    phase: Literal["new", "running", "ended"]
    health: Health = "closed"
    is_ready: bool = False
    nodes: Mapping[NodeState, int] = {}
    load: float = 0.0
    events: Mapping[str, int] = {}
    pending_calls: int = 0


def events_of(counts: Mapping[str, int]) -> dict[str, int]:
    """Return those of a node's `counts` that only grow."""
    return {name: count for name, count in counts.items() if name not in LEVELS}
