"""A Redis or Valkey server."""

import asyncio
import re
import secrets
import statistics
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from catga.backends import redact
from catga.backends.redis.connect import Connector, takes_no_writes
from catga.backends.redis.index import READ, REMOVE, STORE
from catga.backends.redis.session import SHARE
from catga.cli.checks import Finding, Level
from catga.cli.checks.findings import bounce_finding, round_trip_finding, version_finding
from catga.cli.options import Where
from catga.rpc.subjects import inbox

OLDEST = (6, 2)
SKEW = 2.0
UNWELL = {
    "OOM": ("memory", "raise maxmemory, or let nothing else fill this server: nodes cannot store their records"),
    "MISCONF": (
        "disk",
        "see in the server's log why it cannot save, and free its disk: nodes cannot store their records",
    ),
    "NOREPLICAS": ("replicas", "start the replicas that min-replicas-to-write wants: nodes cannot store their records"),
    "READONLY": ("role", "give the primary's address"),
    "MASTERDOWN": ("role", "give the primary's address"),
    "LOADING": ("loading", "wait until the server has loaded its data"),
}
"""What an error reply begins with that tells of the server, not of the account → check, fix."""
CODES: dict[type[Exception], str] = {
    OutOfMemoryError: "OOM",
    ReadOnlyError: "READONLY",
    MasterDownError: "MASTERDOWN",
    BusyLoadingError: "LOADING",
}
"""redis-py takes the first word away."""


async def examine(where: Where) -> AsyncGenerator[Finding, None]:
    """Reachable, version, round trip, role, keyspace notifications, eviction, permissions, queues, bounces, clock."""
    patience = where.connect_timeout
    try:
        Connector(where.url, {})  # checks the options in the URL
    except ValueError as error:
        yield Finding("reachable", Level.PROBLEM, str(error), "mend the URL")
        return
    client: Any = cast("Any", Redis).from_url(where.url, socket_connect_timeout=patience, socket_timeout=patience)
    try:
        async with aclosing(_look(client, where)) as findings:
            async for finding in findings:
                yield finding
    except (RedisError, OSError, TimeoutError) as error:
        yield _unwell(error) or _unreachable(where, error)
    finally:
        await client.aclose()


async def _look(client: Any, where: Where) -> AsyncGenerator[Finding, None]:
    info = await _info(client)
    yield Finding("reachable", Level.OK, redact(where.url))
    name = "valkey" if "valkey_version" in info else "redis"
    yield version_finding(name, str(info.get(f"{name}_version", "unknown")), OLDEST)
    rights = f"ACL: {_rights(where.prefix, client.connection_pool.connection_kwargs.get('db') or 0)}"
    try:
        yield round_trip_finding(await _round_trip(client))
    except NoPermissionError as error:
        yield Finding("permissions", Level.PROBLEM, str(error), rights)
        return
    if await _is_replica(client):
        yield Finding("role", Level.PROBLEM, "a replica: nodes do not stay with it", UNWELL["READONLY"][1])
        return
    yield await _notifications(client)
    yield await _eviction(client)
    yield await _permissions(client, where.prefix, rights)
    yield await _queues(client, where.prefix, rights)
    yield await _bounces(client, where.prefix)
    yield await _clock(client)


def _unreachable(where: Where, error: Exception) -> Finding:
    refused = isinstance(error, AuthenticationError)
    fix = "check user and password in the URL" if refused else "is the server started, and the port open?"
    return Finding("reachable", Level.PROBLEM, f"{redact(where.url)}: {str(error) or 'no answer'}", fix)


def _unwell(error: Exception) -> Finding | None:
    """What is wrong with the server itself, if the error tells that."""
    text = f"{CODES.get(type(error), '')} {error}".strip()
    for code, (check, fix) in UNWELL.items():
        if re.search(rf"\b{code}\b", text):
            return Finding(check, Level.PROBLEM, text, fix)
    return None


async def _info(client: Any) -> dict[str, object]:
    """What the server is; nothing where INFO is forbidden."""
    try:
        found: dict[str, object] = await client.info("server")
    except NoPermissionError:
        return {}
    return found


async def _is_replica(client: Any) -> bool:
    try:
        reply: Any = await client.execute_command("HELLO")  # a version would change the connection's protocol
    except ResponseError:  # not known, or forbidden
        return False
    return b"replica" in (reply.values() if isinstance(reply, dict) else reply)


async def _round_trip(client: Any) -> float:
    times: list[float] = []
    for _ in range(5):
        start = time.perf_counter()
        try:
            await client.ping()
        except ResponseError as error:  # a server that cannot save refuses PING, and has answered all the same
            if not takes_no_writes(error):
                raise
        times.append(time.perf_counter() - start)
    return statistics.median(times)


async def _setting(client: Any, name: str) -> str | None:
    """A setting of the server; None where CONFIG is forbidden, as it is on managed servers."""
    try:
        found: dict[str, str] = await client.config_get(name)
    except ResponseError:
        return None
    return found.get(name, "")


async def _notifications(client: Any) -> Finding:
    flags = await _setting(client, "notify-keyspace-events")
    if flags is None:
        return Finding("keyspace notifications", Level.INFO, "unknown: CONFIG is forbidden; they are not required")
    if "K" in flags and ("g" in flags or "A" in flags) and ("x" in flags or "A" in flags):
        return Finding("keyspace notifications", Level.OK, f"on ({flags})")
    text = f"off ({flags or 'empty'}): not required, a lost record is stored again at the next heartbeat"
    return Finding("keyspace notifications", Level.INFO, text, "sooner with: CONFIG SET notify-keyspace-events Kgxe")


async def _eviction(client: Any) -> Finding:
    policy = await _setting(client, "maxmemory-policy")
    if policy is None or policy == "noeviction":
        return Finding("eviction", Level.OK, policy or "unknown: CONFIG is forbidden")
    text = f"{policy}: a full server may evict the nodes' records"
    return Finding("eviction", Level.WARNING, text, "use a server, or a memory limit, of its own for catga")


def _rights(prefix: str, db: int) -> str:
    """What a node's user needs, as an ACL has it."""
    channels = f"resetchannels &{prefix}:* &{prefix}.* &__keyspace@{db}__:{prefix}:nodes:*"
    commands = "-@all +@connection +@pubsub +eval +time +mget +set +del +hset +hdel +hgetall +sadd +srem +srandmember"
    return f"~{prefix}:* ~{prefix}.queue.* {channels} {commands}"


async def _permissions(client: Any, prefix: str, rights: str) -> Finding:
    try:
        async with asyncio.timeout(5), client.pubsub() as listener:
            own = f"{prefix}.reply.{secrets.token_hex(8)}"
            subscribe, unsubscribe = listener.subscribe, listener.unsubscribe
            for step, channel in ((subscribe, own), (unsubscribe, own), (subscribe, f"{prefix}:changes")):
                await step(channel)
                await listener.get_message(timeout=None)  # redis-py reads the server's answer only here
            await client.publish(own, b"")
            await _keep_record(client, f"{prefix}:nodes:{secrets.token_hex(8)}")
    except ResponseError as error:
        return _unwell(error) or Finding("permissions", Level.PROBLEM, str(error), rights)
    return Finding("permissions", Level.OK, f"may use keys and channels of the prefix {prefix!r}")


async def _keep_record(client: Any, index: str) -> None:
    """Do what nodes do, with an index that none of them reads."""
    record = f"{index}:doctor"
    remove = (REMOVE, 3, record, index, f"{index}:changes", "", 0, 0, "doctor")
    await client.eval(*remove)  # first, as without it something would stay
    try:
        await client.eval(STORE, 2, record, index, "{}", 1000, 0, 0, "doctor", "-" * 8, "")
        await client.eval(READ, 1, index, "", 1000)
    finally:
        await client.eval(*remove)


async def _queues(client: Any, prefix: str, rights: str) -> Finding:
    queue = f"{prefix}.queue.{secrets.token_hex(8)}"
    try:
        await client.srem(queue, queue)  # first, as without it something would stay
        try:
            await client.sadd(queue, queue)
            await client.eval(SHARE, 1, queue, b"")
        finally:
            await client.srem(queue, queue)
    except ResponseError as error:
        if _unwell(error):
            return Finding("queues", Level.INFO, "unknown: the server takes no writes")
        return Finding("queues", Level.WARNING, f"not with queues=True: {error}", rights)
    return Finding("queues", Level.OK, "nodes may share them")


async def _bounces(client: Any, prefix: str) -> Finding:
    """Publish on a channel that nobody can know, and see whether somebody is counted."""
    try:
        count = await client.publish(inbox(prefix, secrets.token_hex(16), 0), b"")
    except ResponseError as error:
        return Finding("bounces", Level.WARNING, f"unknown: {error}")
    return bounce_finding(count == 0, "somebody subscribes to a pattern (PSUBSCRIBE) that has the channels of catga")


async def _clock(client: Any) -> Finding:
    try:
        start = time.time()
        seconds, micros = await client.time()
    except ResponseError as error:
        return Finding("broker's clock", Level.INFO, f"unknown: {error}")
    skew = seconds + micros / 1e6 - (start + time.time()) / 2
    text = f"{round(skew * 1000):+d} ms from this machine's"
    if abs(skew) > SKEW:
        return Finding("broker's clock", Level.WARNING, text, "run NTP on both; catga itself compares no clocks")
    return Finding("broker's clock", Level.OK, text)
