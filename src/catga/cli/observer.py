"""Joins a cluster to look at it, and to call its members, without becoming one."""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from typing import NamedTuple

import click

from catga.abc import RoutingStrategy
from catga.cli.failures import UNREACHABLE, USAGE, CommandError
from catga.cli.logs import log_to_stderr
from catga.cli.options import Where
from catga.cli.signatures import complaint
from catga.cluster import DistributedMediator, add_cluster
from catga.cluster.stats import NodeStats, Stats
from catga.errors import CatgaError, ClusterError
from catga.mediator import Mediator
from catga.node import NodeInfo
from catga.result import Failure


@asynccontextmanager
async def observer(
    where: Where, *, request_timeout: float = 30.0, routing: RoutingStrategy | None = None
) -> AsyncGenerator[DistributedMediator, None]:
    """A node that only observes.

    Raises:
        click.UsageError: the URL or an option cannot work.
        CommandError: the cluster cannot be reached, or its nodes sign with other keys.
    """
    if where.url.startswith("memory:"):
        raise click.UsageError("a memory:// cluster lives inside one process: nobody else can see it")
    log_to_stderr("warning")
    try:
        node = add_cluster(
            Mediator(),
            where.url,
            prefix=where.prefix,
            signing_keys=where.signing_keys,
            node_id=f"cli-{secrets.token_hex(8)}",
            connect_timeout=where.connect_timeout,
            request_timeout=request_timeout,
            routing=routing,
            drain_timeout=0.0,
            observe_only=True,
        )
    except (ValueError, ClusterError) as error:
        raise click.UsageError(str(error)) from error
    try:
        if text := await complaint(where):
            raise CommandError(text, USAGE)
        await node.start()
    except ClusterError as error:
        raise CommandError(str(error), UNREACHABLE) from error
    try:
        yield node
    finally:
        await node.stop()


class Reading(NamedTuple):
    """What a node answered to `Stats`."""

    stats: NodeStats | None
    seconds: float
    """Its round trip."""
    at: float
    """The middle of it, by this machine's wall clock."""
    error: CatgaError | None = None


async def read(node: DistributedMediator, node_id: str, *, detail: bool = False, timeout: float = 2.0) -> Reading:
    """Ask one node for its stats. Never raises for a node that does not answer: see ``error``."""
    clock, start = time.time(), time.perf_counter()
    stats: NodeStats | None = None
    error: CatgaError | None = None
    try:
        async with asyncio.timeout(timeout):
            result = await node.send_to_node(Stats(detail=detail), node_id)
        if isinstance(result, Failure):
            error = result.error
        else:
            stats = result.value
    except TimeoutError:
        error = CatgaError(f"no answer within {timeout:g} s")
    seconds = time.perf_counter() - start
    return Reading(stats, seconds, clock + seconds / 2, error)


async def read_all(
    node: DistributedMediator, members: Iterable[NodeInfo], *, detail: bool = False, timeout: float = 2.0
) -> dict[str, Reading]:
    """Ask several nodes at once."""
    ids = [member.node_id for member in members]
    readings = await asyncio.gather(*(read(node, node_id, detail=detail, timeout=timeout) for node_id in ids))
    return dict(zip(ids, readings, strict=True))
