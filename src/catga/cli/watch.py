"""``catga watch``"""

import asyncio
import time
from datetime import datetime
from typing import Any

import click

from catga.cli.loops import run
from catga.cli.nodes import handled
from catga.cli.observer import observer
from catga.cli.options import Where, cluster_options, json_option, where
from catga.cli.output import node_dict, to_json
from catga.cli.text import one_line
from catga.node import NodeChangeEvent, NodeChangeType

COLORS = {NodeChangeType.JOINED: "green", NodeChangeType.UPDATED: "cyan", NodeChangeType.LEFT: "red"}


HELP = """Print each change of the membership, first every member as joined, until Ctrl-C.

With --json, a line of JSON a change.
"""


@click.command("watch", help=HELP)
@json_option
@cluster_options
def command(as_json: bool, **options: Any) -> None:
    run(_watch(where(options), as_json=as_json))


async def _watch(cluster: Where, *, as_json: bool) -> None:
    async with observer(cluster) as node:
        try:
            async for event in node.watch():
                click.echo(to_json(event_dict(event)) if as_json else line(event))
        except asyncio.CancelledError:  # Ctrl-C
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()


def line(event: NodeChangeEvent) -> str:
    """A change for people."""
    node, node_id = event.node, one_line(event.node.node_id)
    kind = click.style(f"{event.type.value:<8}", COLORS[event.type])
    if event.reason is not None:
        return f"{datetime.now():%H:%M:%S} {kind} {node_id} ({event.reason.value})"
    what = f"{node.state.value} service={node.service} load={node.load:.0%} handles={handled(node.handles)}"
    return f"{datetime.now():%H:%M:%S} {kind} {node_id} {one_line(what)}"


def event_dict(event: NodeChangeEvent) -> dict[str, Any]:
    """A change for JSON; ``time`` is this machine's, seconds since 1970."""
    return {
        "time": round(time.time(), 3),
        "type": event.type.value,
        "reason": event.reason.value if event.reason is not None else None,
        "version": event.version,
        "node": node_dict(event.node),
    }
