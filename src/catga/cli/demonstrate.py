"""``catga demo``"""

import sys

import click

from catga.cli.loops import run


@click.command("demo")
def command() -> None:
    """Show a cluster of four processes on this machine, step by step: joining, routing, failures, leaving.

    Needs the wheels of catga[testing], which bring a nats-server. Exit status 1: a step did not hold.
    """
    from catga.cli.demo.__main__ import main

    sys.exit(run(main()))
