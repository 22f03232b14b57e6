"""One node in one process: load the user's module, join, serve until told to stop, drain, leave."""

import asyncio
import inspect
import logging
import os
import signal
import sys
import threading
from contextlib import suppress
from typing import Any

import click
import msgspec

from catga.cli.failures import FAILED, UNREACHABLE, USAGE, CommandError, explained
from catga.cli.keys import VARIABLE as KEYS
from catga.cli.keys import signing_keys
from catga.cli.loading import load, told
from catga.cli.logs import log_to_stderr
from catga.cli.loops import loop_factory
from catga.cli.options import DEFAULT_URL
from catga.cli.settings import VARIABLE, WorkerSettings
from catga.cluster import DistributedMediator, add_cluster
from catga.errors import CatgaError, ClusterError
from catga.mediator import Mediator

logger = logging.getLogger("catga.cli")

OPTIONS = {"node_id": "--node-id (or --workers, CATGA_WORKERS)"}
"""What a setting is called on the command line, if not by its name."""
FORCED = 1.0
"""Seconds to say good-bye to the cluster when told to stop at once."""
LINGER = 5.0
"""Seconds that tasks and threads have to end when the node has left, before the process ends all the same."""


def serve(settings: WorkerSettings) -> int:
    """Run one node until SIGTERM or SIGINT; returns the exit status."""
    log_to_stderr(settings.log_level, settings.node_id or "" if settings.supervised else "")
    stop = Stop()
    with asyncio.Runner(loop_factory=loop_factory(settings.loop)) as runner:
        try:
            return runner.run(_serve(settings, stop))
        except click.ClickException as error:
            error.show()
            return error.exit_code
        except (SystemExit, KeyboardInterrupt) as reason:  # of a handler, once the node has left
            stop.left(status_of(reason))
            raise


def status_of(reason: SystemExit | KeyboardInterrupt) -> int:
    """The exit status of a program that ends by `reason`."""
    if isinstance(reason, KeyboardInterrupt):
        return 128 + signal.SIGINT
    code = reason.code
    return code if isinstance(code, int) else int(code is not None)


class Stop:
    """Counts the wishes to stop: the first is "drain", the second "at once"."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.at_once = asyncio.Event()
        self._status: int | None = None  # once the node has left

    def ask(self) -> None:
        """SIGTERM, SIGINT, or the end of the supervisor."""
        if self._status is not None:
            end_now(self._status)
        if self.asked.is_set():
            self.at_once.set()
        self.asked.set()

    def left(self, status: int) -> int:
        """The node has left; returns `status`.

        The end of the event loop cancels what still runs and waits for it, and the end of the program waits for its
        threads: for ever, if one of them holds on. So the process ends with `status` at the next wish to stop, or when
        the time is over. A thread watches that, as there may be no event loop by then.
        """
        self._status = status
        timer = threading.Timer(FORCED if self.at_once.is_set() else LINGER, end_now, (status,))
        timer.daemon = True
        timer.start()
        return status

    def listen(self, *, supervised: bool) -> None:
        """Ask at each of these from now on."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.ask)
        if supervised:
            loop.add_reader(0, self._supervisor_gone)

    def _supervisor_gone(self) -> None:
        if not os.read(0, 1024):
            asyncio.get_running_loop().remove_reader(0)
            logger.warning("the supervisor is gone: stopping")
            self.ask()


def end_now(status: int) -> None:
    """End the process, whatever still runs in it."""
    logger.warning("the process ends now, whatever still runs in it")
    with suppress(OSError, ValueError):  # it is closed, or a pipe that nobody reads
        sys.stdout.flush()
    os._exit(status)


async def _serve(settings: WorkerSettings, stop: Stop) -> int:
    stop.listen(supervised=settings.supervised)
    try:
        status = await _life(build(settings), stop, settings)
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    return stop.left(status)


async def _life(node: DistributedMediator, stop: Stop, settings: WorkerSettings) -> int:
    if (status := await _told_to_stop(node, stop)) is not None:
        return status
    me = node.current_node
    logger.info("joined as %s, serves %s", me.node_id, ", ".join(me.handles) or "nothing: it has no handlers")
    await stop.asked.wait()
    logger.info("draining: what was accepted is finished, within %g s", settings.drain_timeout)
    stopping = asyncio.create_task(node.stop())
    done = await _ended(stopping, stop.at_once, FORCED)
    lost = stopping.result() if done else ("told to stop at once",)
    if not lost:
        logger.info("left the cluster")
        return 0
    logger.warning("stopped before it had drained: %s", "; ".join(lost))
    return FAILED


async def _told_to_stop(node: DistributedMediator, stop: Stop) -> int | None:
    """Start the node; returns the exit status if it was told to stop meanwhile. Raises `CommandError`."""
    starting = asyncio.create_task(node.start())
    if not await _ended(starting, stop.asked, FORCED):
        return 0 if starting.done() else FAILED
    try:
        starting.result()
    except ClusterError as error:
        raise CommandError(str(error), UNREACHABLE) from error
    except CatgaError as error:
        raise CommandError(f"{error.code}: {error}", USAGE) from error
    return None


async def _ended(task: "asyncio.Task[Any]", interrupt: asyncio.Event, patience: float) -> bool:
    """Wait for `task`; on `interrupt` cancel it and wait `patience` seconds. Whether it ended by itself."""
    interrupted = asyncio.create_task(interrupt.wait())
    await asyncio.wait([task, interrupted], return_when=asyncio.FIRST_COMPLETED)
    interrupted.cancel()
    if task.done():
        return True
    task.cancel()
    await asyncio.wait([task], timeout=patience)
    return False


def build(settings: WorkerSettings) -> DistributedMediator:
    """The node that the settings describe. Raises `CommandError`."""
    found = load(settings.target, settings.app_dir)
    if settings.factory and (callable(found) or "factory" not in settings.ambient):
        found = _called(found, settings.target)
    if isinstance(found, DistributedMediator):
        return _ready_made(found, settings)
    if not isinstance(found, Mediator):
        hint = "; is it a factory? then add --factory" if callable(found) else ""
        raise CommandError(f"{settings.target} is a {type(found).__qualname__}, not a Mediator{hint}", USAGE)
    try:
        return add_cluster(found, settings.url or DEFAULT_URL, signing_keys=signing_keys(), **_given(settings))
    except (ValueError, TypeError) as error:
        raise CommandError(str(error), USAGE) from error
    except CatgaError as error:
        raise CommandError(str(explained(error)), USAGE) from error


def _called(factory: Any, target: str) -> Any:
    try:
        made = factory()
    except Exception as error:  # the border to the user's function
        raise CommandError(f"the factory {target} failed: {told(error)}", USAGE) from error
    if inspect.iscoroutine(made):
        made.close()
        raise CommandError(f"the factory {target} is async: make it a plain function that returns the mediator", USAGE)
    return made


def _ready_made(node: DistributedMediator, settings: WorkerSettings) -> DistributedMediator:
    """`node` as it is. What the command line asks of it is a mistake; the environment may mean other commands."""
    given = {name for name in ("url", *_given(settings)) if getattr(settings, name)} - {"drain_timeout"}
    if clash := given - settings.ambient:
        options = ", ".join(sorted(OPTIONS.get(name, f"--{name.replace('_', '-')}") for name in clash))
        text = f"{settings.target} is in a cluster already, so {options} cannot apply"
        raise CommandError(f"{text}: take away the option, or name its Mediator", USAGE)
    for name in sorted(given):
        logger.info("CATGA_%s is ignored: %s is in a cluster already", name.upper(), settings.target)
    if os.environ.get(KEYS):
        logger.info("%s is ignored: %s is in a cluster already", KEYS, settings.target)
    return node


def _given(settings: WorkerSettings) -> dict[str, Any]:
    """The arguments of `add_cluster` that were given."""
    names = ("node_id", "service", "endpoint", "metadata", "prefix", "max_concurrency")
    times = ("request_timeout", "connect_timeout", "drain_timeout")
    given = {name: getattr(settings, name) for name in (*names, *times)}
    return {name: value for name, value in given.items() if value not in (None, {})}


def main() -> None:
    """A worker process."""
    sys.exit(serve(msgspec.json.decode(os.environ.pop(VARIABLE), type=WorkerSettings)))


if __name__ == "__main__":
    main()
