"""``catga ping``"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import click

from catga.cli.failures import FAILED, CommandError
from catga.cli.loops import run
from catga.cli.observer import observer, read_all
from catga.cli.options import Where, cluster_options, json_option, where
from catga.cli.output import console, milliseconds, percentile, to_json
from catga.cli.tables import Fitted
from catga.node import NodeInfo

HELP = "Measure round trips to nodes, by default to all. Exit status 1: an answer is missing."


@click.command("ping", help=HELP)
@click.argument("node_ids", metavar="[NODE]...", nargs=-1)
@click.option("--count", "-c", type=click.IntRange(1), default=4, show_default=True, help="Round trips to each node.")
@click.option("--interval", "-i", type=click.FloatRange(0), default=0.2, show_default=True, help="Seconds.")
@click.option("--timeout", type=click.FloatRange(0.01), default=2.0, show_default=True, help="Seconds.")
@json_option
@cluster_options
def command(node_ids: tuple[str, ...], as_json: bool, **options: Any) -> None:
    lost = run(_ping(where(options), node_ids, as_json=as_json, **options))
    if lost:
        raise click.exceptions.Exit(FAILED)


async def _ping(
    cluster: Where, node_ids: Sequence[str], *, count: int, interval: float, timeout: float, as_json: bool
) -> int:
    async with observer(cluster) as node:
        members = _chosen(node.get_nodes(), node_ids)
        trips: dict[str, list[float]] = {member.node_id: [] for member in members}
        for number in range(count):
            if number:
                await asyncio.sleep(interval)
            for node_id, reading in (await read_all(node, members, timeout=timeout)).items():
                if reading.stats is not None:
                    trips[node_id].append(reading.seconds)
    if as_json:
        click.echo(to_json([{"node_id": i, "sent": count, "seconds": seconds} for i, seconds in trips.items()]))
    else:
        _print(trips, count)
    return sum(count - len(seconds) for seconds in trips.values())


def _chosen(members: Sequence[NodeInfo], node_ids: Sequence[str]) -> Sequence[NodeInfo]:
    known = {member.node_id: member for member in members}
    missing = [node_id for node_id in node_ids if node_id not in known]
    if missing or not known:
        there = f"the nodes are {', '.join(known)}" if known else "there are no nodes at all"
        raise CommandError(f"no node {', '.join(missing)}; {there}" if missing else there)
    return [known[node_id] for node_id in node_ids] or members


def _print(trips: Mapping[str, Sequence[float]], count: int) -> None:
    columns = ("ANSWERED", "MIN", "MEDIAN", "MAX")
    rows: list[tuple[str, ...]] = []
    for node_id, seconds in trips.items():
        ordered = sorted(seconds)
        figures = (ordered[0], percentile(ordered, 0.5), ordered[-1]) if ordered else (None, None, None)
        rows.append((node_id, f"{len(seconds)}/{count}", *map(milliseconds, figures)))
    table = Fitted(("NODE", *columns), rows, right=columns, folding={"NODE": 12}, spare=("MIN", "MAX"))
    console().print(table)
