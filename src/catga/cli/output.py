"""What commands print: values for scripts on stdout, notes for people on stderr."""

import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import click
import msgspec
from rich.console import Console

from catga.cli.text import printable
from catga.node import NodeInfo, NodeState

COLORS = {
    NodeState.ALIVE: "green",
    NodeState.SUSPECT: "yellow",
    NodeState.DRAINING: "cyan",
    NodeState.LEFT: "red",
}


ENDLESS = 1_000_000
"""Characters in a line, more than there ever are."""


def console(*, stderr: bool = False) -> Console:
    """A console on stdout or stderr; where that is no terminal, lines have any width.

    Without colours there, or where NO_COLOR is set.
    """
    found = Console(stderr=stderr, highlight=False)
    if not found.is_terminal:
        found.width = ENDLESS
    return found


def to_json(value: Any) -> str:
    """`value` on one line, in characters that stdout has."""
    text = msgspec.json.encode(value, enc_hook=_builtin).decode()
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(json.loads(text), separators=(",", ":"))
    return text


def pretty_json(value: Any) -> str:
    """`value` on several lines."""
    return msgspec.json.format(to_json(value), indent=2)


def note(text: str) -> None:
    """A line for people."""
    click.echo(printable(text), err=True)


def milliseconds(seconds: float | None) -> str:
    """A latency for a table."""
    if seconds is None:
        return "–"
    if seconds >= 10:
        return f"{seconds:.1f} s"
    return f"{seconds * 1000:.{0 if seconds >= 0.1 else 1 if seconds >= 0.01 else 2}f} ms"


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value that `share` of `ordered`, which is sorted and not empty, does not exceed."""
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def node_dict(node: NodeInfo) -> dict[str, Any]:
    """A member for JSON: as its record, with ``age`` (seconds since its last sign of life)."""
    fields: dict[str, Any] = msgspec.to_builtins(node)
    last_seen = fields.pop("last_seen")
    fields["age"] = round(max(time.monotonic() - last_seen, 0.0), 3) if last_seen else None
    return fields


def _builtin(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)
    return str(value) if dump is None else dump(mode="json")
