"""Processes with one id, at a Redis server: each listens for what happens to the key of its record."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from catga.cli.options import Where
from catga.node import NodeInfo


async def count(where: Where, members: Sequence[NodeInfo]) -> Counter[str]:
    """Node id → processes that listen."""
    patience = where.connect_timeout
    client: Any = cast("Any", Redis).from_url(where.url, socket_connect_timeout=patience, socket_timeout=patience)
    db = client.get_connection_kwargs().get("db") or 0
    channels = [f"__keyspace@{db}__:{where.prefix}:nodes:{member.node_id}" for member in members]
    try:
        listening: list[tuple[bytes, int]] = await client.pubsub_numsub(*channels)
    except (RedisError, OSError, TimeoutError):
        return Counter()
    finally:
        await client.aclose()
    return Counter({member.node_id: number for member, (_, number) in zip(members, listening, strict=True)})
