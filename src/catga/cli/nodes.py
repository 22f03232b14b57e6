"""``catga nodes``"""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any

import click
from rich.text import Text

from catga.cli.live import Frame, show
from catga.cli.loops import run
from catga.cli.observer import Reading, observer, read_all
from catga.cli.options import Where, cluster_options, json_option, where
from catga.cli.output import COLORS, console, milliseconds, node_dict, to_json
from catga.cli.tables import Cell, Fitted
from catga.cli.text import counted
from catga.cluster import DistributedMediator
from catga.node import NodeChangeEvent, NodeChangeType, NodeInfo, NodeState

REMEMBERED = 15.0
"""Seconds that a node that left stays on the screen."""
BAR = 6


HELP = """List the nodes of a cluster: state, load, calls in flight, round trip, and what each handles.

With --watch --json, a line of JSON an interval.
"""


@click.command("nodes", help=HELP)
@click.option("--watch", "-w", is_flag=True, help="Keep looking, until Ctrl-C.")
@click.option("--interval", "-i", type=click.FloatRange(0.1), default=1.0, show_default=True, help="Seconds.")
@json_option
@cluster_options
def command(watch: bool, interval: float, as_json: bool, **options: Any) -> None:
    run(_nodes(where(options), watch=watch, interval=interval, as_json=as_json))


async def _nodes(cluster: Where, *, watch: bool, interval: float, as_json: bool) -> None:
    async with observer(cluster) as node:
        if watch:
            await show(frames(node, interval), as_json=as_json)
            return
        members = node.get_nodes()
        readings = await read_all(node, members)
        if as_json:
            click.echo(to_json(rows_json(members, readings)))
        elif members:
            console().print(nodes_table(members, readings))
        else:
            click.echo(f"no nodes (prefix {cluster.prefix!r})", err=True)


async def frames(node: DistributedMediator, interval: float) -> AsyncGenerator[Frame, None]:
    """The cluster, again and again."""
    watcher = node.watch()
    gone: dict[str, tuple[float, NodeChangeEvent]] = {}

    async def remember() -> None:
        async for event in watcher:
            if event.type is NodeChangeType.LEFT:
                gone[event.node.node_id] = (time.monotonic(), event)
            else:
                gone.pop(event.node.node_id, None)

    remembering = asyncio.create_task(remember())
    try:
        while True:
            began = time.monotonic()
            members = node.get_nodes()
            readings = await read_all(node, members, timeout=max(interval, 0.5))
            members = node.get_nodes()  # as it is now: a node may have died in between
            recent = {i: event for i, (at, event) in gone.items() if began - at < REMEMBERED}
            title = f"{counted(len(members), 'node')} · {datetime.now():%H:%M:%S}"
            yield Frame(title, nodes_table(members, readings, recent, cut="HANDLES"), rows_json(members, readings))
            await asyncio.sleep(max(interval - (time.monotonic() - began), 0.0))
    finally:
        remembering.cancel()


def nodes_table(
    members: Sequence[NodeInfo],
    readings: Mapping[str, Reading],
    gone: Mapping[str, NodeChangeEvent] = MappingProxyType({}),
    cut: str = "",
) -> Fitted:
    """A row a node; those that are gone at the end."""
    return Fitted(
        ("NODE", "STATE", "SERVICE", "LOAD", "IN FLIGHT", "LATENCY", "HEARD", "INCARNATION", "HANDLES"),
        [*(_row(node, readings.get(node.node_id)) for node in members), *map(_row_of_gone, gone.values())],
        right=("IN FLIGHT", "LATENCY", "HEARD"),
        folding={"NODE": 12, "SERVICE": 7, "HANDLES": 8},
        cut=cut,
        spare=("INCARNATION", "HEARD", "HANDLES", "SERVICE", "LATENCY", "IN FLIGHT"),
    )


def _row(node: NodeInfo, reading: Reading | None) -> tuple[Cell, ...]:
    stats = None if reading is None else reading.stats
    return (
        node.node_id,
        Text(node.state.value, COLORS[node.state]),
        node.service,
        load_bar(node.load),
        "–" if stats is None else str(stats.inflight),
        milliseconds(None if reading is None or stats is None else reading.seconds),
        f"{max(time.monotonic() - node.last_seen, 0.0):.1f} s",
        incarnation(node.incarnation),
        handled(node.handles),
    )


def _row_of_gone(event: NodeChangeEvent) -> tuple[Cell, ...]:
    node, reason = event.node, event.reason.value if event.reason is not None else "?"
    state = Text(f"left ({reason})", COLORS[NodeState.LEFT])
    return (node.node_id, state, node.service, *("",) * 4, incarnation(node.incarnation), "")


def load_bar(load: float) -> Text:
    """The load as a bar and a number."""
    filled = min(round(load * BAR), BAR)
    color = "green" if load < 0.6 else "yellow" if load < 0.9 else "red"
    return Text("█" * filled, color) + Text("·" * (BAR - filled), "dim") + Text(f" {load:4.0%}")


def incarnation(number: int) -> str:
    """An incarnation, which is the time of the node's start in microseconds, as that time.

    JSON has the number.
    """
    try:
        started = datetime.fromtimestamp(number / 1e6)
        return f"{started:%H:%M:%S}" if started.date() == datetime.now().date() else f"{started:%m-%d %H:%M}"
    except (ValueError, OverflowError, OSError):
        return str(number)


def handled(names: Sequence[str]) -> str:
    """Wire names without their modules."""
    return ", ".join(name.rpartition(".")[2] for name in names) or "–"


def rows_json(members: Sequence[NodeInfo], readings: Mapping[str, Reading]) -> list[dict[str, Any]]:
    """The same as the table."""
    rows: list[dict[str, Any]] = []
    for node in members:
        reading = readings.get(node.node_id)
        stats = reading.stats if reading is not None else None
        row = node_dict(node)
        row["in_flight"] = stats.inflight if stats is not None else None
        row["latency"] = round(reading.seconds, 6) if reading is not None and stats is not None else None
        row["version"] = stats.version if stats is not None else None
        rows.append(row)
    return rows
