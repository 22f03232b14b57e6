"""A violation as a text from which it can be understood: all records about it, and the faults around it."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from tests.histories.checker import Violation
from tests.histories.history import History
from tests.histories.records import (
    Change,
    End,
    Failed,
    Fault,
    Gone,
    Invoke,
    Left,
    Life,
    Outcome,
    Record,
    Seen,
    Stall,
    Start,
)

AROUND = Life | Gone | Left | Failed | Change | Seen | Stall
BEFORE, AFTER = 10.0, 1.0
"""Seconds around what happened in which faults belong to the story."""
NEAR = 3.0
"""Seconds before it in which what became of its nodes belongs to the story."""
MOST_STORIES = 3
"""Of one rule that are told whole,"""
MOST_LINES = 15
"""and that are told at all."""


def report(history: History, violations: Iterable[Violation]) -> str:
    """All violations by rule: the first few of each with their stories, some more by a line."""
    told: Counter[str] = Counter()
    lines: list[str] = []
    for violation in violations:
        told[violation.rule] += 1
        lines.append(
            f"{violation.rule.upper()} {violation.about} at {violation.at - history.begin:.3f}: {violation.text}"
        )
        if told[violation.rule] <= MOST_STORIES:
            lines += [f"    {line}" for line in story(history, violation)]
    return "\n".join(lines)


def story(history: History, violation: Violation) -> list[str]:
    """One line for each record about it and each fault around it, in the order of time, in seconds of the history."""
    records = [record for record in history.records if _is_about(record, violation)]
    times = [record.at for record in records if isinstance(record, Invoke | Outcome | Start | End)]
    since, until = min([*times, violation.at]) - BEFORE, max([*times, violation.at]) + AFTER
    nodes = {violation.about} | {name for record in records for name in _names(record)}
    near = [r for r in history.records if since + BEFORE - NEAR <= r.at <= until and _is_around(r, nodes)]
    records += [record for record in near if record not in records]
    records += [f for f in history.of(Fault) if f.at <= until and f.until >= since]
    return [_line(record, history.begin) for record in sorted(records, key=lambda record: record.at)]


def _is_about(record: Any, violation: Violation) -> bool:
    """Of a request: also those that it was sent by, and that it sent."""
    request = getattr(record, "request", None)
    if request is None:
        return False
    return bool(request.split("/")[0] == violation.about.split("/")[0])


def _names(record: Any) -> tuple[str, ...]:
    """The nodes that a record of a call names."""
    return tuple(getattr(record, field) for field in ("node", "nodes", "caller") if getattr(record, field, ""))


def _is_around(record: Any, nodes: set[str]) -> bool:
    """What became of the nodes that took part."""
    return (
        isinstance(record, Life | Gone | Left | Failed | Change | Seen | Stall) and getattr(record, "node", "") in nodes
    )


def _line(record: Record, begin: float) -> str:
    fields = msgspec.structs.asdict(record)
    at = fields.pop("at") - begin
    until = f"..{fields.pop('until') - begin:.3f}" if "until" in fields else ""
    return f"{at:9.3f}{until} {type(record).__name__} {' '.join(_told(fields))}"


def _told(fields: dict[str, Any]) -> Iterator[str]:
    for name, value in fields.items():
        if value not in ("", {}, 0):
            yield f"{name}={value}"


def summary(history: History) -> str:
    """How much happened, and how the calls ended."""
    calls = history.calls.values()
    ends = Counter(_end(call.outcome) for call in calls)
    starts = sum(len(call.starts) for call in calls)
    faults = Counter(fault.what for fault in history.of(Fault))
    told = ", ".join(f"{count} {what}" for what, count in ends.most_common())
    done = ", ".join(f"{count} {what}" for what, count in faults.most_common())
    return f"{len(calls)} calls ({told}), {starts} starts; faults: {done}"


def _end(outcome: Outcome | None) -> str:
    if outcome is None:
        return "without an outcome"
    if outcome.parts:
        return "to all"
    return f"{outcome.code}/{outcome.execution}" if outcome.code else "ok"
