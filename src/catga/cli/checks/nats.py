"""A NATS server."""

import asyncio
import secrets
import statistics
import time
from collections.abc import AsyncGenerator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from catga.backends import redact
from catga.backends.nats.client import address, flush, hopeless, nobody
from catga.backends.nats.direct import DirectClient, NoTlsError
from catga.cli.checks import Finding, Level
from catga.cli.checks.findings import bounce_finding, round_trip_finding, version_finding
from catga.cli.options import Where
from catga.rpc.subjects import inbox, reply_box

OLDEST = (2, 10)
SMALL_PAYLOAD = 64 * 1024
BOTH = ("inbox.{}.0", "reply.{}", "sync.{}")
"""What a node publishes to, and subscribes to, below the prefix. It does so to "sync" and "nodes.{}" too, but there the
members would hear what comes of a test."""
SUBSCRIBED = ("bounce.{}.0.inbox", "nodes.{}")
QUEUES = ("queue.{}",)
BOUNCE_TIMEOUT = 1.0
"""Seconds that the server has to tell that nobody listens."""


async def examine(where: Where) -> AsyncGenerator[Finding, None]:
    """Reachable, version, round trip, payload, JetStream, permissions, bounces."""
    complaints: list[str] = []
    async with AsyncExitStack() as stack:
        try:
            client = await stack.enter_async_context(connected(where, complaints))
        except (nats.errors.Error, OSError, TimeoutError, ValueError) as error:
            yield _unreachable(where, complaints, error)
            return
        yield Finding("reachable", Level.OK, redact(where.url))
        version = client.connected_server_version
        yield version_finding("nats-server", f"{version.major}.{version.minor}.{version.patch}", OLDEST)
        yield round_trip_finding(await _round_trip(client))
        yield _payload(client.max_payload)
        yield await _jetstream(client)
        forbidden = await _forbidden(client, where.prefix, complaints, BOTH, SUBSCRIBED)
        fix = f'allow publish and subscribe on "{where.prefix}.>"'
        if forbidden:
            yield Finding("permissions", Level.PROBLEM, forbidden, fix)
            return  # that no message comes, or bounces, would be for want of rights
        yield Finding("permissions", Level.OK, f"may subscribe and publish below {where.prefix}.")
        if forbidden := await _forbidden(client, where.prefix, complaints, QUEUES):
            yield Finding("queues", Level.WARNING, f"not with queues=True: {forbidden}", fix)
        yield await _bounces(client, where.prefix)


@asynccontextmanager
async def connected(where: Where, complaints: list[str] | None = None) -> AsyncGenerator[Client, None]:
    """A client. What it has to complain of is added to `complaints`. Raises what nats-py does, or `TimeoutError`."""

    async def complain(error: Exception) -> None:
        if complaints is not None:
            complaints.append(str(error))

    client = DirectClient()
    client.on_violation = lambda violation: None if complaints is None else complaints.append(str(violation))
    try:
        async with asyncio.timeout(where.connect_timeout):
            servers, settings = address(where.url)
            if len(servers) > 1:
                settings |= {"max_reconnect_attempts": 1, "reconnect_time_wait": 0.1}
            settings |= {"allow_reconnect": len(servers) > 1, "connect_timeout": max(int(where.connect_timeout), 1)}
            await client.connect(servers, error_cb=complain, **settings)
        yield client
    finally:
        await client.close()


def _unreachable(where: Where, complaints: list[str], error: Exception) -> Finding:
    if isinstance(error, NoTlsError):
        what, _, fix = hopeless(error).partition(": ")
        return Finding("reachable", Level.PROBLEM, f"{redact(where.url)} {what}", fix)
    text = "; ".join(dict.fromkeys(complaints)) or str(error) or "no answer in time"
    refused = "authorization" in text.lower()
    fix = "check user and password in the URL" if refused else "is the server started, and the port open?"
    return Finding("reachable", Level.PROBLEM, f"{redact(where.url)}: {text}", fix)


async def _round_trip(client: Client) -> float:
    times: list[float] = []
    for _ in range(5):
        start = time.perf_counter()
        await client.flush(5)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _payload(limit: int) -> Finding:
    text = f"messages of up to {limit // 1024} KiB"
    if limit < SMALL_PAYLOAD:
        return Finding("max payload", Level.WARNING, text, "raise max_payload in the server's configuration")
    return Finding("max payload", Level.OK, text)


async def _jetstream(client: Any) -> Finding:
    try:
        await client.jetstream(timeout=2).account_info()
    except (nats.errors.Error, TimeoutError) as error:
        text = f"off, or not for this account ({type(error).__name__}); only discovery='kv' needs it"
        return Finding("JetStream", Level.INFO, text)
    return Finding("JetStream", Level.OK, "on")


async def _bounces(client: Any, prefix: str) -> Finding:
    """Send to a subject that nobody can know, and see whether the server says so."""
    told: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def on_message(message: Msg) -> None:
        if nobody(message) and not told.done():
            told.set_result(True)

    box = reply_box(prefix)
    subscription = await client.subscribe(box, cb=on_message)
    await client.publish(inbox(prefix, secrets.token_hex(16), 0), b"", box)
    done, _ = await asyncio.wait([told], timeout=BOUNCE_TIMEOUT)
    await subscription.unsubscribe()
    watcher = f'somebody subscribes to "{prefix}.>", ">" or the like, or the server has no_header_support'
    return bounce_finding(bool(done), watcher)


async def _forbidden(
    client: Any, prefix: str, complaints: list[str], both: Iterable[str], subscribed: Iterable[str] = ()
) -> str:
    """What the server says of subscriptions and messages like those of a node, and what does not come; "" if all is
    well.

    Args:
        complaints: what the server says is added there.
        both: kinds of subjects that are subscribed and published to.
        subscribed: those that are only subscribed to.
    """
    token, before, echoes = secrets.token_hex(8), len(complaints), list[Any]()
    for kind in subscribed:
        await client.subscribe(f"{prefix}.{kind.format(token)}")
    for kind in both:
        echoes.append(await client.subscribe(f"{prefix}.{kind.format(token)}"))
        await client.publish(echoes[-1].subject, b"")

    def told() -> str:
        return "; ".join(dict.fromkeys(each for each in complaints[before:] if f" {prefix}." in each))

    try:
        async with asyncio.timeout(2):
            await flush(client)  # by then the server has told all that it forbids
            if not told():
                await asyncio.gather(*(echo.next_msg() for echo in echoes))
    except (nats.errors.Error, OSError, TimeoutError):
        return told() or "a message to oneself does not come back"
    return told()
