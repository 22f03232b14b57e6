"""Redis, or Valkey, behind behaviors: `RedisStore` for `Idempotency` and `Caching`, `RedisDeadLetters`.

Commands wait for a connection of the client's pool: a pool of redis-py's default class raises an error at once when all
its connections are in use. Stores over one client share up to half of them, so that the rest of the program finds some.
"""

import asyncio
import math
import random
import weakref
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar, cast

import msgspec
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from catga.backends import redact
from catga.errors import StoreError
from catga.integrations.withdrawals import Withdrawals
from catga.mediator.behaviors import DeadLetter
from catga.rpc.clock import boottime

MAX_PLACES = 64
"""Commands of all stores over one client that may run at once, or half of its connections, if these are fewer."""
FULL_PAUSE = (0.005, 0.02)
"""Seconds until a pool whose connections are all in use is asked again."""

T = TypeVar("T")

# Sets a value unless the command is late, by the server's clock: one that waited in a frozen server, or in a link that
# stalled, must not claim a key for a caller that has given up. The lifetime of a value that replaces another is shorter
# by what the command has waited, so that it may be over already. The second reply is the server's time. Key: the key.
# Arguments: value, lifetime and deadline in ms, "NX" or "", and the ms that the command may take.
_SET = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[3] == '' then return {-1, now} end
local late, ttl = now - ARGV[3], tonumber(ARGV[2])
if ARGV[4] == '' then
  ttl = ttl - math.max(0, late + ARGV[5])
elseif late > 0 then
  return {-1, now}
end
if ttl < 1 and late > 0 then return {-1, now} end
if ttl < 1 then
  redis.call('DEL', KEYS[1])
  return {1, now}
end
local px = string.format('%.0f', ttl)
if ARGV[4] == '' then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', px)
elseif not redis.call('SET', KEYS[1], ARGV[1], 'PX', px, 'NX') then
  return {0, now}
end
return {1, now}
"""
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
        sending = _Sending(self._client)
        return await self._bounded(sending, sending(*command))

    async def _bounded(self, sending: "_Sending", operation: Coroutine[Any, Any, T]) -> T:
        """Return what `operation` returns. It runs as a task, which is cancelled after the time-out and not waited for:
        redis-py may need seconds to end, and must not be disturbed then.

        Raises:
            StoreError: it failed, or is late.
        """
        task = asyncio.ensure_future(operation)
        _tasks.add(task)
        task.add_done_callback(_ended)
        try:
            await asyncio.wait([task], timeout=self._timeout)
        finally:
            task.cancel()
        if not task.done():
            why = "the server did not answer" if sending.has_place else "no connection of the pool was free"
            raise StoreError(f"Redis: {why} within {self._timeout:g} s")
        if task.cancelled():  # not by the caller
            raise StoreError("Redis: the operation was cancelled, as its event loop ends")
        try:
            return task.result()
        except StoreError:
            raise
        except Exception as error:  # redis-py lets through what asyncio, and a user's credential provider, raise
            raise StoreError(f"Redis: {_reason(error)}") from error


class _Sending:
    """Sends commands, each once it has a place.

    Attributes:
        has_place: whether the last command had one.
        is_refused: whether the server answered it with an error, so that it was not run.
    """

    def __init__(self, client: "Redis") -> None:
        self._client = client
        self.has_place = False
        self.is_refused = False

    async def __call__(self, *command: Any) -> Any:
        self.has_place = self.is_refused = False
        async with _places(self._client):
            while True:
                self.has_place = True
                try:
                    return await cast("Awaitable[Any]", self._client.execute_command(*command))  # type: ignore[no-untyped-call]
                except ResponseError:
                    self.is_refused = True
                    raise
                except RedisConnectionError as error:
                    if "Too many connections" not in str(error):
                        raise
                self.has_place = False
                await asyncio.sleep(random.uniform(*FULL_PAUSE))


class RedisStore(_Commands):
    """A `KeyValueStore`.

    What `add` may have set though it failed, or was cancelled, is discarded in the background until the server has
    taken that, and so is what `discard` failed to delete. So the value must be the caller's own. An `add` that the
    server reads only after its time-out sets nothing.

    Args:
        client: the caller's, who closes it. It must not decode responses.
        prefix: of all keys.
        timeout: seconds for one operation, including the wait for a free connection of the client's pool.
    """

    def __init__(self, client: "Redis", *, prefix: str = "catga:store:", timeout: float = 5.0) -> None:
        super().__init__(client, timeout)
        self._prefix = prefix
        self._ahead: float | None = None  # seconds by which the server's clock is ahead of ours, at least
        self._withdrawals = Withdrawals(self._withdraw)

    async def get(self, key: str) -> bytes | None:
        return _bytes(await self._run("GET", self._prefix + key))

    async def put(self, key: str, value: bytes, ttl: float) -> None:
        sending = _Sending(self._client)
        await self._bounded(sending, self._set(sending, key, value, ttl, ""))

    async def add(self, key: str, value: bytes, ttl: float) -> bool:
        sending = _Sending(self._client)
        try:
            return await self._bounded(sending, self._set(sending, key, value, ttl, "NX"))
        except BaseException:
            if sending.has_place and not sending.is_refused:
                self._withdrawals.add(key, value, self._timeout, ttl)
            raise

    async def discard(self, key: str, value: bytes) -> None:
        sending = _Sending(self._client)
        try:
            await self._bounded(sending, sending(*self._discarding(key, value)))
        except BaseException:
            if not sending.is_refused:
                self._withdrawals.add(key, value)
            raise

    def _discarding(self, key: str, value: bytes) -> tuple[str | bytes | int, ...]:
        return "EVAL", _DISCARD, 1, self._prefix + key, value

    async def _withdraw(self, key: str, value: bytes) -> None:
        """As `discard`, on a connection of its own: its user may close the client meanwhile, and nobody would close it
        again."""
        pool = getattr(self._client, "connection_pool", None)
        if pool is None:  # a cluster's client
            await self._run(*self._discarding(key, value))
            return
        sending = _Sending(self._client)
        sending.has_place = True
        await self._bounded(sending, _run_alone(pool.make_connection(), self._discarding(key, value)))

    async def _set(self, sending: _Sending, key: str, value: bytes, ttl: float, only: str) -> bool:
        deadline = boottime() + self._timeout
        while True:
            sent = boottime()
            by = "" if self._ahead is None else str(int((deadline + self._ahead) * 1000))
            lifetime, time = _milliseconds(ttl), _milliseconds(self._timeout)
            done, now = await sending("EVAL", _SET, 1, self._prefix + key, value, lifetime, by, only, time)
            self._learn(now / 1000, sent, boottime())
            if done >= 0:
                return bool(done)
            if boottime() >= deadline:
                raise StoreError(f"Redis: the command came later than its {self._timeout:g} s")

    def _learn(self, server: float, sent: float, received: float) -> None:
        """The server's clock was read between these two moments. What is known stays as long as that can be true."""
        if self._ahead is None or not server - received <= self._ahead <= server - sent:
            self._ahead = server - received


class RedisDeadLetters(_Commands):
    """A `DeadLetterStore`: a hash, and a sorted set that keeps the order.

    Args:
        client: the caller's, who closes it. It must not decode responses.
        name: of the keys; one hash slot of a Redis Cluster.
        max_letters: when full, the oldest goes.
        timeout: seconds for one operation, including the wait for a free connection of the client's pool.
    """

    def __init__(
        self, client: "Redis", *, name: str = "catga:dead-letters", max_letters: int = 10_000, timeout: float = 5.0
    ) -> None:
        super().__init__(client, timeout)
        self._order = f"{{{name}}}:order"
        self._letters = f"{{{name}}}:letters"
        self._max_letters = max_letters
        self.claims = RedisStore(client, prefix=f"{{{name}}}:claims:", timeout=timeout)

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


_semaphores: "weakref.WeakKeyDictionary[object, dict[asyncio.AbstractEventLoop, asyncio.Semaphore]]" = (
    weakref.WeakKeyDictionary()
)


def _places(client: Any) -> asyncio.Semaphore:
    """What the stores over one client, or one pool, share in this event loop."""
    pool = getattr(client, "connection_pool", client)  # a cluster's client has none
    loop = asyncio.get_running_loop()
    of_pool = _semaphores.get(pool, {})
    places = of_pool.get(loop)
    if places is None:
        size = getattr(pool, "max_connections", None) or 2 * MAX_PLACES
        places = asyncio.Semaphore(min(MAX_PLACES, max(1, size // 2)))
        living = {each: held for each, held in of_pool.items() if not each.is_closed()}
        _semaphores[pool] = {**living, loop: places}
    return places


async def _run_alone(connection: Any, command: tuple[Any, ...]) -> None:
    try:
        await connection.connect()
        await connection.send_command(*command)
        await connection.read_response()
    finally:
        await connection.disconnect(nowait=True)


_tasks: set[asyncio.Task[Any]] = set()  # keeps them from being collected


def _ended(task: asyncio.Task[Any]) -> None:
    _tasks.discard(task)
    if not task.cancelled():
        task.exception()  # else asyncio would log that nobody has asked for it


def _reason(error: Exception) -> str:
    """What the client says, without what it quotes: arguments of a command, or credentials."""
    text = str(error).partition(", with args beginning with")[0] or type(error).__name__
    return redact(text) if "://" in text else text


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
