"""``catga top``"""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import click
from rich.text import Text

from catga.cli.figures import Delta, Figures, delta, figures
from catga.cli.live import Frame, show
from catga.cli.loops import run
from catga.cli.observer import Reading, observer, read_all
from catga.cli.options import Where, cluster_options, json_option, where
from catga.cli.output import milliseconds
from catga.cli.tables import Cell, Fitted
from catga.cli.text import counted, one_line
from catga.cluster import DistributedMediator
from catga.cluster.stats import NodeStats

GROUPS = ("both", "type", "node")
NUMBERS = ("REQ/S", "P50", "P99", "ERRORS/S", "FAILOVERS/S")


class Row(NamedTuple):
    """A line of the screen; an empty ``type`` or ``node_id`` means all of them."""

    type: str
    node_id: str
    figures: Figures


HELP = """Show requests a second, latency, errors and failovers by message type and node, until Ctrl-C.

A failover is counted at the node that sent the request: an attempt it made again elsewhere. With --json, a
line of JSON an interval.
"""


@click.command("top", help=HELP)
@click.option("--by", type=click.Choice(GROUPS), default="both", show_default=True, help="A row for each of these.")
@click.option("--interval", "-i", type=click.FloatRange(0.1), default=2.0, show_default=True, help="Seconds.")
@click.option("--count", "-n", type=click.IntRange(1), help="End after so many intervals.")
@json_option
@cluster_options
def command(by: str, interval: float, count: int | None, as_json: bool, **options: Any) -> None:
    run(_top(where(options), by, interval, count, as_json=as_json))


async def _top(cluster: Where, by: str, interval: float, count: int | None, *, as_json: bool) -> None:
    async with observer(cluster) as node:
        await show(frames(node, by, interval, count), as_json=as_json)


async def frames(node: DistributedMediator, by: str, interval: float, count: int | None) -> AsyncGenerator[Frame, None]:
    """The figures of one interval after the other."""
    before = await _stats(node, interval)
    shown = 0
    while count is None or shown < count:
        began = time.monotonic()
        await asyncio.sleep(interval)
        now = await _stats(node, interval)
        seconds = time.monotonic() - began
        deltas = {
            (name, node_id): part
            for node_id, reading in now.items()
            if (stats := reading.stats) is not None
            # A node that is new here began to count at an unknown time: its first interval is the next.
            and (former := _former(before, node_id)) is not None
            for name, part in delta(former, stats).items()
        }
        yield Frame(_title(now, deltas, seconds), table(_rows(deltas, by, seconds)), _data(now, deltas, by, seconds))
        before = {**before, **{i: reading for i, reading in now.items() if reading.stats is not None}}
        before = {i: reading for i, reading in before.items() if i in now}
        shown += 1


async def _stats(node: DistributedMediator, interval: float) -> dict[str, Reading]:
    return await read_all(node, node.get_nodes(), detail=True, timeout=max(interval, 0.5))


def _former(before: Mapping[str, Reading], node_id: str) -> NodeStats | None:
    reading = before.get(node_id)
    return None if reading is None else reading.stats


Deltas = Mapping[tuple[str, str], Delta]


def _rows(deltas: Deltas, by: str, seconds: float) -> list[Row]:
    groups: dict[tuple[str, str], list[Delta]] = {}
    for (name, node_id), part in deltas.items():
        key = (name if by != "node" else "", node_id if by != "type" else "")
        groups.setdefault(key, []).append(part)
    rows = [Row(name, node_id, figures(parts, seconds)) for (name, node_id), parts in groups.items()]
    return sorted(rows, key=lambda row: (-row.figures.rate, row.type, row.node_id))


def _title(now: Mapping[str, Reading], deltas: Deltas, seconds: float) -> str:
    total = figures(deltas.values(), seconds)
    silent = sorted(node_id for node_id, reading in now.items() if reading.stats is None)
    text = f"{datetime.now():%H:%M:%S} · {counted(len(now), 'node')} · {total.rate:.0f} requests/s"
    return f"{text} · no answer from {one_line(', '.join(silent))}" if silent else text


def table(rows: Sequence[Row]) -> Fitted:
    """The rows for people."""
    return Fitted(
        ("TYPE", "NODE", *NUMBERS),
        [_cells(row) for row in rows],
        right=NUMBERS,
        folding={"TYPE": 10, "NODE": 10},
        spare=("FAILOVERS/S", "P50", "P99"),
    )


def _cells(row: Row) -> tuple[Cell, ...]:
    rate, p50, p99, errors, failovers = row.figures
    times = (milliseconds(p50), milliseconds(p99))
    return (row.type or "(all)", row.node_id or "(all)", f"{rate:.1f}", *times, _rate(errors), _rate(failovers))


def _rate(value: float) -> Text:
    return Text(f"{value:.1f}", "red") if value else Text("0")


def _data(now: Mapping[str, Reading], deltas: Deltas, by: str, seconds: float) -> dict[str, Any]:
    return {
        "time": round(time.time(), 3),
        "seconds": round(seconds, 3),
        "nodes": sorted(node_id for node_id, reading in now.items() if reading.stats is not None),
        "silent": sorted(node_id for node_id, reading in now.items() if reading.stats is None),
        "rows": [{"type": r.type, "node": r.node_id, **r.figures._asdict()} for r in _rows(deltas, by, seconds)],
    }
