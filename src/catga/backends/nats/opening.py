"""How a client is connected: nats-py gives up after 60 attempts, has no jitter, and does not tell a wrong password."""

import asyncio
import random
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from nats.aio.client import Server

from catga.backends import redact
from catga.backends.joining import end
from catga.backends.nats.client import address
from catga.backends.nats.direct import DirectClient
from catga.errors import ClusterError
from catga.hidden import Hidden

PING_INTERVAL = 2
"""Seconds between the client's own pings of the server: a half-open link is noticed after three."""


class Target(NamedTuple):
    """Where to connect, and as whom.

    Attributes:
        url: without its password.
        servers: without credentials.
        options: for ``nats.connect``.
    """

    url: str
    servers: list[str]
    options: Hidden[Mapping[str, Any]]


def target(url: str, options: Mapping[str, Any]) -> Target:
    """Return what a URL and options say. Raises ValueError for a URL that names no host, or more than hosts."""
    servers, credentials = address(url)
    if options.keys() & {"user", "token"}:
        credentials = {}
    return Target(redact(url), servers, Hidden({**credentials, **options}))


async def connect(
    client: DirectClient,
    to: Target,
    callbacks: Mapping[str, Any],
    timeout: float,
    refused: "asyncio.Future[str]",
    problem: Callable[[], str],
) -> None:
    """Connect `client`, which then keeps connected for ever.

    Args:
        callbacks: for ``nats.connect``.
        refused: ends the attempts, with what the server will say at each of them.
        problem: tells the last problem of the client.

    Raises:
        ClusterError: within `timeout` seconds. The client is of no use then, and has to be closed.
    """
    defaults: dict[str, Any] = {
        "name": "catga",
        "connect_timeout": 2,
        "reconnect_time_wait": 0.1,
        "max_reconnect_attempts": -1,
        "reconnect_to_server_handler": partial(_next_server, client),
        "ping_interval": PING_INTERVAL,
        "max_outstanding_pings": 2,
    }
    connecting = asyncio.create_task(client.connect(to.servers, **{**defaults, **to.options.reveal(), **callbacks}))
    ends: list[asyncio.Future[Any]] = [connecting, refused]
    try:
        await asyncio.wait(ends, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if refused.done():
            raise ClusterError(f"{to.url} {refused.result()}")
        if not connecting.done():
            why = f": {problem()}" if problem() else ""
            raise ClusterError(f"{to.url} could not be reached within {timeout:g} s{why}")
        try:
            connecting.result()
        except Exception as error:  # of nats-py, of nkeys, of callbacks among the options
            raise ClusterError(f"{to.url}: {error or repr(error)}") from error
    except BaseException:
        await end(connecting)
        raise


def _next_server(client: Any, known: list[Server], _info: dict[str, Any]) -> tuple[Server, float]:
    """Which server next, and when: 200 clients that lost one broker must not return in one instant."""
    left_open = client._transport
    if left_open is not None:  # nats-py forgets the socket of an attempt that failed half-way
        left_open.close()
    return random.choice(known), random.uniform(0.05, 0.5)
