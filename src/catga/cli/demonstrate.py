"""``catga demo``"""

import asyncio
import sys

import click


@click.command("demo")
def command() -> None:
    """Show a cluster of four processes on this machine, step by step: joining, routing, failures, leaving.

    Needs the wheels of catga[testing], which bring a nats-server. Exit status 1: a step did not hold.
    """
    from catga.cli.demo.__main__ import main

    sys.exit(asyncio.run(main()))  # not uvloop, which cannot start a process in a group of its own
