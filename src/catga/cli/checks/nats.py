"""A NATS server."""

import asyncio
import secrets
import statistics
import time
from collections.abc import AsyncGenerator, Iterable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from catga.backends import redact
from catga.backends.nats.client import NoTlsError, address, bounded, flush, hopeless, nobody
from catga.backends.nats.direct import DirectClient
from catga.backends.nats.refusals import Violation
from catga.cli.checks import Finding, Level
from catga.cli.checks.findings import bounce_finding, round_trip_finding, version_finding
from catga.cli.options import Where
from catga.rpc.subjects import inbox, reply_box

OLDEST = (2, 10)
SMALL_PAYLOAD = 64 * 1024
BOTH = ("inbox.{}.0", "reply.{}", "sync.{}")
"""What a node publishes to, and subscribes to, below the prefix. It does so to "sync" and "nodes.{}" too, but there the
members would hear what is published for a test."""
SUBSCRIBED = ("bounce.{}.0.inbox", "nodes.{}")
QUEUES = ("queue.{}",)
ROUND_TRIP = 2.0
"""Seconds that a round trip may take."""
CLOSE_TIMEOUT = 1.0
BOUNCE_TIMEOUT = 1.0
"""Seconds that the server has to tell that nobody listens."""


async def examine(where: Where) -> AsyncGenerator[Finding, None]:
    """Reachable, version, round trip, payload, JetStream, permissions, bounces."""
    complaints: list[str] = []
    violations: list[Violation] = []
    async with AsyncExitStack() as stack:
        try:
            client = await stack.enter_async_context(connected(where, complaints, violations))
        except (nats.errors.Error, OSError, TimeoutError, ValueError) as error:
            yield _unreachable(where, complaints, error)
            return
        yield Finding("reachable", Level.OK, redact(where.url))
        try:
            async with aclosing(_look(client, where.prefix, violations)) as findings:
                async for finding in findings:
                    yield finding
        except (nats.errors.Error, OSError, TimeoutError) as error:
            yield _unreachable(where, complaints, error)


async def _look(client: Client, prefix: str, violations: list[Violation]) -> AsyncGenerator[Finding, None]:
    version = client.connected_server_version
    yield version_finding("nats-server", f"{version.major}.{version.minor}.{version.patch}", OLDEST)
    yield round_trip_finding(await _round_trip(client))
    yield _payload(client.max_payload)
    yield await _jetstream(client)
    for finding in await _rights(client, prefix, violations):
        yield finding


async def _rights(client: Client, prefix: str, violations: list[Violation]) -> list[Finding]:
    """Permissions, queues, and bounces."""
    fix = f'allow publish and subscribe on "{prefix}.>"'
    own = await _forbidden(client, prefix, violations, BOTH, SUBSCRIBED)
    shared = await _shut_out(client, prefix, violations)
    if forbidden := "; ".join(filter(None, (own, shared))):
        return [
            Finding("permissions", Level.PROBLEM, forbidden, fix)
        ]  # that no message bounces would be for want of them
    found = [
        Finding("permissions", Level.OK, f"may subscribe below {prefix}., and publish there to subjects of its own")
    ]
    if forbidden := await _forbidden(client, prefix, violations, QUEUES):
        found.append(Finding("queues", Level.WARNING, f"not with queues=True: {forbidden}", fix))
    return [*found, await _bounces(client, prefix)]


@asynccontextmanager
async def connected(
    where: Where, complaints: list[str] | None = None, violations: list[Violation] | None = None
) -> AsyncGenerator[Client, None]:
    """A client. What the server has to say is added to the lists. Raises what nats-py does, or `TimeoutError`."""

    async def complain(error: Exception) -> None:
        if complaints is not None:
            complaints.append(str(error))

    client = DirectClient()
    if violations is not None:
        client.on_violation = violations.append
    try:
        async with asyncio.timeout(where.connect_timeout):
            servers, settings = address(where.url)
            if len(servers) > 1:
                settings |= {"max_reconnect_attempts": 1, "reconnect_time_wait": 0.1}
            settings |= {"allow_reconnect": len(servers) > 1, "connect_timeout": max(int(where.connect_timeout), 1)}
            await client.connect(servers, error_cb=complain, **settings)
        yield client
    finally:
        await bounded(client.close(), redact(where.url), "close", CLOSE_TIMEOUT, quiet=True)


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
    client: Any, prefix: str, violations: list[Violation], both: Iterable[str], subscribed: Iterable[str] = ()
) -> str:
    """What the server forbids of subscriptions and messages like those of a node, and what does not come; "" if all is
    well.

    Args:
        violations: what the server forbids is added there.
        both: kinds of subjects that are subscribed and published to.
        subscribed: those that are only subscribed to.
    """
    token, before, echoes = secrets.token_hex(8), len(violations), list[Any]()
    for kind in subscribed:
        await client.subscribe(f"{prefix}.{kind.format(token)}")
    for kind in both:
        echoes.append(await client.subscribe(f"{prefix}.{kind.format(token)}"))
        await client.publish(echoes[-1].subject, b"")

    def told() -> str:
        return _summary(prefix, violations[before:]).replace(token, "*")

    await _answered(client)  # by then the server has told all that it forbids
    if not told():
        try:
            async with asyncio.timeout(ROUND_TRIP):
                await asyncio.gather(*(echo.next_msg() for echo in echoes))
        except TimeoutError:
            return told() or "a message to oneself does not come back"
    return told()


async def _shut_out(client: Any, prefix: str, violations: list[Violation]) -> str:
    """What the server says of who would answer the questions of nodes that join; "" if it is allowed.

    A plain subscription takes no question away from the members, so it goes first. It is refused where the rights are
    limited to their group; then that is tried. A question that comes in this moment is asked again a second later.
    """
    told = ""
    for queue in ("", "sync"):
        before = len(violations)
        subscription = await client.subscribe(f"{prefix}.sync", queue=queue)
        await _answered(client)
        await subscription.unsubscribe()
        await _answered(client)
        told = _summary(prefix, violations[before:])
        if not told:
            break
    return told


async def _answered(client: Any) -> None:
    async with asyncio.timeout(ROUND_TRIP):
        await flush(client)


def _summary(prefix: str, violations: Iterable[Violation]) -> str:
    """What is forbidden below the prefix, each subject once."""
    subjects: dict[str, dict[str, None]] = {}
    for each in violations:
        if each.subject.startswith(f"{prefix}."):
            verb = "subscribing" if each.is_subscription else "publishing"
            subjects.setdefault(verb, {})[each.subject] = None
    return "; ".join(f"forbids {verb} to {', '.join(found)}" for verb, found in subjects.items())
