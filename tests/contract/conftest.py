"""The backends that keep the contract."""

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import nats
import pytest
from redis.asyncio import Redis

from catga.backends.nats.kv import bucket_name
from catga.testing.contract import Bed


class Candidate(NamedTuple):
    """A backend to try.

    Attributes:
        url: of the fixture that has its URL, or the URL itself.
        options: for `add_cluster`.
        inject: (url, prefix, data) → puts foreign data where announcements are.
    """

    url: str
    options: dict[str, Any] = {}
    inject: Callable[[str, str, bytes], Awaitable[None]] | None = None


async def publish_nats(url: str, prefix: str, data: bytes) -> None:
    client = await nats.connect(url)
    await client.publish(f"{prefix}.nodes.x", data)
    await client.publish(f"$KV.{bucket_name(prefix)}.x", data)
    await client.flush()
    await client.close()


async def publish_kv(url: str, prefix: str, data: bytes) -> None:
    client = await nats.connect(url)
    await client.publish(f"$KV.{bucket_name(prefix)}.x", data)
    await client.flush()
    await client.close()


async def publish_redis(url: str, prefix: str, data: bytes) -> None:
    async with Redis.from_url(url) as client:
        await client.set(f"{prefix}:nodes:x", data)
        await client.hset(f"{prefix}:nodes", "x", "y")
        await client.publish(f"{prefix}:changes", data)


BACKENDS = {
    "memory": Candidate("memory://contract"),
    "nats": Candidate("nats_url", inject=publish_nats),
    "nats-kv": Candidate("nats_url", {"discovery": "kv"}, inject=publish_kv),
    "redis": Candidate("redis_url", inject=publish_redis),
}


@pytest.fixture(params=BACKENDS)
def make_bed(request: pytest.FixtureRequest) -> Callable[[], Bed]:
    """Makes the bed for one promise."""
    url, options, inject = BACKENDS[request.param]
    if "://" not in url:
        url = request.getfixturevalue(url)

    async def inject_here(prefix: str, data: bytes) -> None:
        assert inject is not None
        await inject(url, prefix, data)

    return lambda: Bed(url, options=options, inject=inject_here if inject else None)
