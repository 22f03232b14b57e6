"""``catga doctor``"""

import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import click

from catga.cli.checks import Finding, Level, broker, cluster
from catga.cli.failures import FAILED, UNREACHABLE
from catga.cli.loops import run
from catga.cli.options import cluster_options, json_option, where
from catga.cli.output import to_json
from catga.cli.text import one_line
from catga.cluster.options import check_prefix

SIGNS = {
    Level.OK: click.style("ok  ", "green"),
    Level.INFO: click.style("info", "cyan"),
    Level.WARNING: click.style("warn", "yellow"),
    Level.PROBLEM: click.style("FAIL", "red", bold=True),
}


HELP = """Check the broker and the nodes: what is wrong, and the fix.

Exit status 0: no problem (there may be warnings), 1: a problem, 3: the cluster cannot be reached.
"""


@click.command("doctor", help=HELP)
@json_option
@cluster_options
def command(as_json: bool, **options: Any) -> None:
    place = where(options)
    if place.url.startswith("memory:"):
        raise click.UsageError("a memory:// cluster lives inside one process: nobody else can see it")
    try:
        check_prefix(place.prefix)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    findings: list[Finding] = []

    async def examine() -> int:
        await _collect(broker.examine(place), findings, as_json=as_json)
        problems = {finding.check for finding in findings if finding.level is Level.PROBLEM}
        if "reachable" in problems:
            return UNREACHABLE
        if "permissions" in problems:  # the nodes would be looked at with the same account
            return FAILED
        await _collect(cluster.examine(place), findings, as_json=as_json)
        return FAILED if any(f.level is Level.PROBLEM for f in findings) else 0

    status = run(examine())
    if as_json:
        click.echo(to_json(findings))
    sys.exit(status)


async def _collect(found: AsyncGenerator[Finding, None], findings: list[Finding], *, as_json: bool) -> None:
    async with aclosing(found):  # it holds a connection, also when its findings cannot be written
        async for finding in found:
            findings.append(finding)
            if not as_json:
                _tell(finding)


def _tell(finding: Finding) -> None:
    click.echo(f"{SIGNS[finding.level]}  {finding.check:<22} {one_line(finding.text)}")
    if finding.fix:
        click.echo(f"{'':29}→ {one_line(finding.fix)}")
