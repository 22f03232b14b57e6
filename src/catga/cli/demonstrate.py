"""``catga demo``"""

import asyncio
import sys

import click

HELP = """Show a cluster of four processes on this machine, step by step: joining, routing, failures, leaving.

Needs catga[nats,testing], which bring a nats-server and its client. Exit status 1: a step did not hold.
"""


@click.command("demo", help=HELP)
def command() -> None:
    from catga.cli.demo.__main__ import main

    sys.exit(asyncio.run(main()))  # not uvloop, which cannot start a process in a group of its own
