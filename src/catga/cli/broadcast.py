"""``catga broadcast``"""

from collections.abc import Mapping, Sequence
from typing import Any

import click

from catga.cli.failures import FAILED, error_line
from catga.cli.loops import run
from catga.cli.messages import message_of
from catga.cli.observer import observer
from catga.cli.options import app_dir_option, cluster_options, json_option, where
from catga.cli.output import note, to_json
from catga.cli.text import one_line
from catga.errors import CatgaError

HELP = """Deliver an event to every node, and print who acknowledged it.

JSON has the fields of the event: '{"sku": "a-1"}', @file, or - for stdin. Exit status 1: a node did not.
"""


@click.command("broadcast", help=HELP)
@click.argument("target", metavar="MODULE:EVENT")
@click.argument("body", metavar="JSON", default="{}")
@json_option
@app_dir_option
@cluster_options
def command(target: str, body: str, as_json: bool, **options: Any) -> None:
    cluster = where(options)
    event = message_of(target, body, event=True, **options)

    async def act() -> None:
        async with observer(cluster) as node:
            acknowledged, failures = await node.broadcast(event)
        if as_json:
            errors = {node_id: {"code": e.code, "message": e.message} for node_id, e in failures.items()}
            click.echo(to_json({"acknowledged": acknowledged, "failed": errors}))
        elif acknowledged or failures:
            _tell(acknowledged, failures)
        else:
            note(f"no nodes (prefix {cluster.prefix!r}): nothing happened")
        if failures:
            raise click.exceptions.Exit(FAILED)

    run(act())


def _tell(acknowledged: Sequence[str], failures: Mapping[str, CatgaError]) -> None:
    for node_id in acknowledged:
        click.echo(f"{one_line(node_id)} {click.style('acknowledged', 'green')}")
    for node_id, error in failures.items():
        click.echo(f"{one_line(node_id)} {click.style('failed', 'red')} {one_line(error_line(error))}")
