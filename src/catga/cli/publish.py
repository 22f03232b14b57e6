"""``catga publish``"""

from typing import Any

import click

from catga.cli.failures import FAILED, failed
from catga.cli.loops import run
from catga.cli.messages import message_of
from catga.cli.observer import observer
from catga.cli.options import app_dir_option, cluster_options, json_option, where
from catga.cli.output import note, to_json
from catga.cli.send import error_dict
from catga.messages import Event, wire_name
from catga.result import Failure

HELP = """Deliver an event once to each service that has a handler for it.

JSON has the fields of the event: '{"sku": "a-1"}', @file, or - for stdin. Exit status 1: a handler failed.
"""


@click.command("publish", help=HELP)
@click.argument("target", metavar="MODULE:EVENT")
@click.argument("body", metavar="JSON", default="{}")
@json_option
@app_dir_option
@cluster_options
def command(target: str, body: str, as_json: bool, **options: Any) -> None:
    cluster = where(options)
    event: Event = message_of(target, body, event=True, **options)

    async def act() -> None:
        async with observer(cluster) as node:
            name = wire_name(event.__class__)
            services = sorted({n.service for n in node.get_nodes() if name in n.handles})
            result = await node.publish(event)
        error = error_dict(result) if isinstance(result, Failure) else None
        if as_json:
            click.echo(to_json({"ok": error is None, "services": services, "error": error}))
            if error is not None:
                raise click.exceptions.Exit(FAILED)
        elif isinstance(result, Failure):
            raise failed(result)
        else:
            note(f"published to {', '.join(services)}" if services else f"no service handles {name}: nothing happened")

    run(act())
