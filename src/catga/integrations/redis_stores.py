"""Redis, or Valkey, behind behaviors: `RedisStore` for `Idempotency` and `Caching`, `RedisDeadLetters`."""

import asyncio
import math
from collections.abc import Awaitable
from typing import Any, cast

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from catga.errors import StoreError
from catga.mediator.behaviors import DeadLetter

_DISCARD = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"
_REMOVE_LETTER = "redis.call('ZREM', KEYS[1], ARGV[1]) redis.call('HDEL', KEYS[2], ARGV[1])"
_PUT_LETTER = """
redis.call('ZADD', KEYS[1], 0, ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
local over = redis.call('ZCARD', KEYS[1]) - tonumber(ARGV[3])
if over > 0 then
  for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, over - 1)) do
    redis.call('ZREM', KEYS[1], id)
    redis.call('HDEL', KEYS[2], id)
  end
end
"""


class _Commands:
    def __init__(self, client: "Redis", timeout: float) -> None:
        self._client = client
        self._timeout = timeout

    async def _run(self, *command: Any) -> Any:
        """Run one command. Raises `StoreError` after the time-out at the latest."""
        try:
            async with asyncio.timeout(self._timeout):
                return await cast("Awaitable[Any]", self._client.execute_command(*command))  # type: ignore[no-untyped-call]
        except (RedisError, OSError) as error:  # a TimeoutError is an OSError
            raise StoreError(f"Redis: {error or type(error).__name__}") from error


class RedisStore(_Commands):
    """A `KeyValueStore`.

    Args:
        client: the caller's, who closes it.
        prefix: of all keys.
        timeout: seconds for one command.
    """

    def __init__(self, client: "Redis", *, prefix: str = "catga:store:", timeout: float = 5.0) -> None:
        super().__init__(client, timeout)
        self._prefix = prefix

    async def get(self, key: str) -> bytes | None:
        return _bytes(await self._run("GET", self._prefix + key))

    async def put(self, key: str, value: bytes, ttl: float) -> None:
        await self._run("SET", self._prefix + key, value, "PX", _milliseconds(ttl))

    async def add(self, key: str, value: bytes, ttl: float) -> bool:
        return bool(await self._run("SET", self._prefix + key, value, "PX", _milliseconds(ttl), "NX"))

    async def discard(self, key: str, value: bytes) -> None:
        await self._run("EVAL", _DISCARD, 1, self._prefix + key, value)


class RedisDeadLetters(_Commands):
    """A `DeadLetterStore`: a hash, and a sorted set that keeps the order.

    Args:
        client: the caller's, who closes it.
        name: of the keys; one hash slot of a Redis Cluster.
        max_letters: when full, the oldest goes.
        timeout: seconds for one command.
    """

    def __init__(
        self, client: "Redis", *, name: str = "catga:dead-letters", max_letters: int = 10_000, timeout: float = 5.0
    ) -> None:
        super().__init__(client, timeout)
        self._order = f"{{{name}}}:order"
        self._letters = f"{{{name}}}:letters"
        self._max_letters = max_letters

    async def put(self, letter: DeadLetter) -> None:
        body = msgspec.msgpack.encode(letter)
        await self._run("EVAL", _PUT_LETTER, 2, self._order, self._letters, letter.id, body, self._max_letters)

    async def get(self, letter_id: str) -> DeadLetter | None:
        return _letter(await self._run("HGET", self._letters, letter_id))

    async def remove(self, letter_id: str) -> None:
        await self._run("EVAL", _REMOVE_LETTER, 2, self._order, self._letters, letter_id)

    async def list(self, limit: int) -> "list[DeadLetter]":
        ids: list[Any] = await self._run("ZRANGE", self._order, 0, limit - 1) if limit > 0 else []
        found: list[Any] = await self._run("HMGET", self._letters, *ids) if ids else []
        return [letter for letter in map(_letter, found) if letter is not None]


def _milliseconds(seconds: float) -> int:
    return max(1, math.ceil(seconds * 1000))


def _bytes(value: Any) -> bytes | None:
    if value is None or isinstance(value, bytes):
        return value
    raise StoreError("the Redis client decodes responses: make it with decode_responses=False")


def _letter(value: Any) -> DeadLetter | None:
    body = _bytes(value)
    if body is None:
        return None
    try:
        return msgspec.msgpack.decode(body, type=DeadLetter)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StoreError(f"what is stored is no dead letter: {error}") from error
