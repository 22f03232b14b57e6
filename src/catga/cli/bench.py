"""``catga bench``"""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import click
import msgspec
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from catga.cli.failures import FAILED, CommandError
from catga.cli.loops import run
from catga.cli.messages import message_of
from catga.cli.observer import observer
from catga.cli.options import app_dir_option, cluster_options, json_option, where
from catga.cli.output import console, milliseconds, percentile, to_json
from catga.cli.tables import Fitted
from catga.cli.text import one_line
from catga.cluster import DistributedMediator
from catga.cluster.stats import Stats
from catga.result import CatgaResult, Failure

COLUMNS = ("CALLS", "SECONDS", "CALLS/S", "P50", "P90", "P99", "MAX", "ERRORS", "FAILOVERS")
BARS = 12
WIDTH = 40


class Measured(msgspec.Struct):
    """What was measured. Times are seconds; ``latencies`` has the calls that did not fail, sorted."""

    seconds: float = 0.0
    latencies: list[float] = []
    nodes: Counter[str] = msgspec.field(default_factory=Counter[str])
    errors: Counter[str] = msgspec.field(default_factory=Counter[str])
    failovers: int = 0


HELP = """Send a request many times, and measure.

Without a request, each node in turn answers one that is built in and does nothing: the cost of the way
there and back. Exit status 1: a call failed.
"""


@click.command("bench", help=HELP)
@click.argument("target", metavar="[MODULE:REQUEST]", required=False)
@click.argument("body", metavar="[JSON]", default="{}")
@click.option("--calls", "-n", type=click.IntRange(1), default=10_000, show_default=True, help="How many, in total.")
@click.option("--concurrency", "-c", type=click.IntRange(1), default=32, show_default=True, help="At once.")
@click.option("--node", "node_id", metavar="ID", help="To this node alone.")
@click.option("--timeout", type=click.FloatRange(0, min_open=True), default=30.0, show_default=True, help="Seconds.")
@json_option
@app_dir_option
@cluster_options
def command(target: str | None, body: str, **options: Any) -> None:
    cluster, timeout = where(options), options.pop("timeout")
    app_dir, as_json = options.pop("app_dir"), options.pop("as_json")
    request = None if target is None else message_of(target, body, app_dir)

    async def act() -> Measured:
        async with observer(cluster, request_timeout=timeout) as node:
            if not node.get_nodes():
                raise CommandError("there are no nodes")
            return await _bench(node, request, quiet=as_json, **options)

    measured = run(act())
    if as_json:
        click.echo(to_json(summary(measured)))
    else:
        _print(measured)
    if measured.errors:
        raise click.exceptions.Exit(FAILED)


async def _bench(
    node: DistributedMediator, request: Any, *, calls: int, concurrency: int, node_id: str | None, quiet: bool
) -> Measured:
    measured = Measured(latencies=[])
    ids = [member.node_id for member in node.get_nodes()]
    numbers = iter(range(calls))

    async def one(number: int) -> CatgaResult[Any]:
        if request is None:
            return await node.send_to_node(Stats(detail=False), node_id or ids[number % len(ids)])
        return await (node.send(request) if node_id is None else node.send_to_node(request, node_id))

    async def worker() -> None:
        for number in numbers:
            start = time.perf_counter()
            result = await one(number)
            _count(measured, result, time.perf_counter() - start)

    start = time.perf_counter()
    progress = asyncio.create_task(_show_progress(measured, calls, quiet=quiet))
    await asyncio.gather(*(worker() for _ in range(min(concurrency, calls))))
    measured.seconds = time.perf_counter() - start
    await progress
    measured.latencies.sort()
    return measured


def _count(measured: Measured, result: CatgaResult[Any], seconds: float) -> None:
    if isinstance(result, Failure):
        measured.errors[result.error.code] += 1
    else:
        measured.latencies.append(seconds)
        measured.nodes[result.metadata.node_id] += 1
    measured.failovers += max(result.metadata.attempts - 1, 0)


async def _show_progress(measured: Measured, calls: int, *, quiet: bool) -> None:
    columns = (BarColumn(), TextColumn("{task.completed}/{task.total}"), TimeRemainingColumn())
    screen = console(stderr=True)
    if quiet or not screen.is_terminal:  # rich before 14.3 writes an empty line for a bar that is disabled
        return
    with Progress(*columns, console=screen, transient=True) as progress:
        task = progress.add_task("", total=calls)
        done = 0
        while done < calls:
            await asyncio.sleep(0.1)
            done = len(measured.latencies) + measured.errors.total()
            progress.update(task, completed=done)


def summary(measured: Measured) -> dict[str, Any]:
    """The result for JSON."""
    ordered = measured.latencies
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}
    return {
        "calls": len(ordered) + measured.errors.total(),
        "seconds": measured.seconds,
        "rate": (len(ordered) + measured.errors.total()) / measured.seconds,
        "latency": {name: percentile(ordered, share) for name, share in shares.items()} if ordered else None,
        "max": ordered[-1] if ordered else None,
        "nodes": dict(measured.nodes),
        "errors": dict(measured.errors),
        "failovers": measured.failovers,
    }


def _print(measured: Measured) -> None:
    figures = summary(measured)
    latency: dict[str, float] = figures["latency"] or {}
    row = (
        str(figures["calls"]),
        f"{measured.seconds:.2f}",
        f"{figures['rate']:.0f}",
        *(milliseconds(latency.get(name)) for name in ("p50", "p90", "p99")),
        milliseconds(figures["max"]),
        ", ".join(f"{count} {code}" for code, count in measured.errors.items()) or "0",
        str(measured.failovers),
    )
    screen = console()
    screen.print(Fitted(COLUMNS, [row], folding={"ERRORS": 16}, spare=("P90", "SECONDS", "MAX", "FAILOVERS")))
    nodes = ", ".join(f"{node_id} {count}" for node_id, count in sorted(measured.nodes.items()))
    screen.print(Text(f"\nby node: {one_line(nodes) or '–'}\n"))
    for line in histogram(measured.latencies):
        screen.print(line)


def histogram(ordered: Sequence[float]) -> list[str]:
    """The latencies as bars, a line for each range; those above the 99.9th percentile are in the last one."""
    if not ordered:
        return []
    low, high = ordered[0], max(percentile(ordered, 0.999), ordered[0] * 1.01, 1e-9)
    step = (high - low) / BARS
    counts = Counter(min(int((value - low) / step), BARS - 1) for value in ordered)
    most = max(counts.values())
    return [
        f"{milliseconds(low + (i + 1) * step):>10}  {'█' * round(WIDTH * counts[i] / most):<{WIDTH}}  {counts[i]}"
        for i in range(BARS)
    ]
