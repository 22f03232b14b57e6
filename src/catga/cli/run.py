"""``catga run``"""

import asyncio
import os
import signal
import subprocess
import sys
from asyncio.subprocess import Process
from typing import Any

import click
import msgspec
from click.core import ParameterSource

from catga.cli.options import DEFAULT_URL, app_dir_option, env_option
from catga.cli.output import note
from catga.cli.reload import changes
from catga.cli.settings import VARIABLE, WorkerSettings
from catga.cli.supervisor import Supervisor
from catga.cli.worker import serve
from catga.cluster.options import default_node_id

LEVELS = ("debug", "info", "warning", "error", "critical")


HELP = """Run the handlers of a Mediator as a node of a cluster.

SIGTERM and SIGINT (Ctrl-C) make it drain: it takes no more requests, finishes those it accepted, and leaves.
A second signal stops it at once.
"""


@click.command("run", help=HELP)
@click.argument("target", metavar="MODULE:MEDIATOR")
@env_option("--url", help=f"The broker: nats://…, tls://…, redis://…  [default: {DEFAULT_URL}]")
@env_option("--prefix", help="Prefix of the cluster's subjects, channels and keys.  [default: catga]")
@env_option("--node-id", help="Unique in the cluster; several workers get -1, -2 …  [default: from the host's name]")
@env_option("--service", help="Each service receives one copy of every published event.  [default: default]")
@env_option("--endpoint", help="Free text for the others to read, e.g. an HTTP address.")
@env_option("--metadata", "-m", multiple=True, metavar="NAME=VALUE", help="For the routing of other nodes; repeatable.")
@env_option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes; each is a node.")
@env_option("--reload", is_flag=True, help="Restart when a .py file below --app-dir changes.")
@env_option("--max-concurrency", type=int, help="Async handlers that each worker runs at once.  [default: 512]")
@env_option("--request-timeout", type=float, help="Seconds for calls that handlers make.  [default: 30]")
@env_option("--connect-timeout", type=float, help="Seconds to reach the broker.  [default: 10]")
@env_option("--drain-timeout", type=click.FloatRange(0), default=30.0, show_default=True, help="Seconds to finish.")
@env_option("--loop", type=click.Choice(["auto", "asyncio", "uvloop"]), default="auto", show_default=True)
@env_option("--log-level", type=click.Choice(LEVELS), default="info", show_default=True)
@env_option("--factory", is_flag=True, help="The target is a function that returns the mediator.")
@app_dir_option
def command(workers: int, reload: bool, metadata: tuple[str, ...], **options: Any) -> None:
    settings = WorkerSettings(metadata=dict(map(_pair, metadata)), ambient=_ambient(), **options)
    if workers == 1 and not reload:
        sys.exit(serve(settings))
    if workers > 1 and (settings.url or "").startswith("memory:"):
        raise click.UsageError("a memory:// cluster lives inside one process: --workers needs nats:// or redis://")
    sys.exit(asyncio.run(_supervise(settings, workers, reload=reload)))


def _ambient() -> frozenset[str]:
    """The names of the options that the environment has set."""
    context = click.get_current_context()
    return frozenset(n for n in context.params if context.get_parameter_source(n) is ParameterSource.ENVIRONMENT)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise click.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--metadata")
    return name, value


async def _supervise(settings: WorkerSettings, workers: int, *, reload: bool) -> int:
    base = settings.node_id or default_node_id()

    async def start(number: int) -> Process:
        mine = settings
        if workers > 1:
            ambient = settings.ambient - {"node_id"}
            mine = msgspec.structs.replace(settings, node_id=f"{base}-{number + 1}", ambient=ambient)
        return await _start(msgspec.structs.replace(mine, supervised=True))

    def say(line: str) -> None:
        note(f"catga: {line}")

    supervisor = Supervisor(start, workers, grace=settings.drain_timeout + 10, say=say, wait_for_change=reload)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.stop)
    watching = asyncio.create_task(_reload_on_change(supervisor, settings.app_dir)) if reload else None
    try:
        return await supervisor.run()
    finally:
        if watching is not None:
            watching.cancel()


async def _start(settings: WorkerSettings) -> Process:
    """A worker in a process group of its own: Ctrl-C reaches the supervisor alone."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "catga.cli.worker"),
        env={**os.environ, VARIABLE: msgspec.json.encode(settings).decode()},
        stdin=subprocess.PIPE,  # never written to: its end tells the worker of the supervisor's
        process_group=0,
    )


async def _reload_on_change(supervisor: Supervisor, app_dir: str) -> None:
    async for path in changes(app_dir):
        note(f"catga: {path} changed: the workers are restarted")
        supervisor.reload()
