"""The group of commands. Each is imported when it is used: a worker needs none of the others."""

import os
from importlib import import_module
from typing import Any

import click

from catga._version import __version__
from catga.cli.failures import CommandError, explained
from catga.errors import CatgaError

COMMANDS = {
    "run": "run",
    "nodes": "nodes",
    "watch": "watch",
    "top": "top",
    "send": "send",
    "publish": "publish",
    "broadcast": "broadcast",
    "ping": "ping",
    "bench": "bench",
    "doctor": "doctor",
    "demo": "demonstrate",
}
"""Command → module in this package, whose ``command`` it is."""


class LazyGroup(click.Group):
    """Imports a command when it is asked for, and turns catga's errors into messages."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"catga.cli.{COMMANDS[cmd_name]}").command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CatgaError as error:
            raise explained(error) from error
        except KeyboardInterrupt:
            raise CommandError("interrupted", exit_code=130) from None


HELP = """Run nodes of a catga cluster, look at them, and talk to them.

Where the nodes sign, CATGA_SIGNING_KEYS has their keys, separated by commas: text, or hex:…

\b
Exit status: 0 done · 1 a request failed, or a check found a problem · 2 wrong usage ·
3 the cluster cannot be reached · 4 the workers kept dying · 130 interrupted
"""


@click.group(
    cls=LazyGroup, help=HELP, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, message="catga %(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    if os.environ.get("NO_COLOR"):  # rich sees to it by itself
        context.color = False
