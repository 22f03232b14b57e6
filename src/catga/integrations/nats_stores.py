"""NATS JetStream key-value buckets behind behaviors: `NatsStore` for `Idempotency` and `Caching`, and
`NatsDeadLetters`. They need a server of version 2.11 or later, which has lifetimes per key.

The server's lifetimes are whole seconds, and it may be a second or two late. So a value has its own in a header, and is
over once that has passed since the server stored it, by the server's clock.
"""

import asyncio
import hashlib
import math
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from nats.aio.client import Client
from nats.errors import NoRespondersError
from nats.js.api import KeyValueConfig
from nats.js.errors import APIError, NoStreamResponseError, NotFoundError

from catga.backends import redact
from catga.errors import StoreError
from catga.integrations.withdrawals import Withdrawals
from catga.mediator.behaviors import DeadLetter
from catga.node import token
from catga.rpc.clock import boottime

_EXPECTED = "Nats-Expected-Last-Subject-Sequence"
_WRONG_SEQUENCE = (10071, 10164)
_NEVER = 2**62
"""A revision that no key has."""
_NO_STREAM = 10059
_PURGE = {"KV-Operation": "PURGE", "Nats-Rollup": "sub"}
_MARKERS = ("KV-Operation", "Nats-Marker-Reason")
_MARKER_TTL = 1.0
"""Seconds that the mark of a deletion stays."""
_LIFETIME, _SENT = "Catga-Lifetime", "Catga-Sent"
"""Headers of a value: its lifetime, and when it was sent by the server's clock, in ms."""
_MAX_KEY = 200
"""Characters of a key in a subject. A client may choose longer ones, and a server closes the connection over 4 KB."""
_CLAIMS = "claims."
"""Before the keys of claims in a bucket of letters: no letter's key has a dot, but those that begin with "sha256."."""
MAX_DOUBT = 1.0
"""Seconds that `add` waits until it is certain that a value is over which `get` no longer returns."""
CLOCK_AGE = 30.0
"""Seconds after which the server is asked for its time again."""


class _Entry(NamedTuple):
    """What the server has of a key. The value is empty where only a marker of a deleted or expired one is left."""

    value: bytes
    revision: int
    stored: float
    headers: Mapping[str, str]

    def left(self, now: float, *, since_sent: bool) -> float:
        """Seconds left of its lifetime at that time of the server's. One that an older version wrote has no end.

        Args:
            since_sent: it counts from when it was sent: it may have waited until it was stored.
        """
        lifetime, sent = self.headers.get(_LIFETIME, ""), self.headers.get(_SENT, "")
        if not lifetime.isdigit() or not sent.isdigit():
            return math.inf
        begin = min(self.stored, int(sent) / 1000) if since_sent else self.stored
        return begin + int(lifetime) / 1000 - now


class _Info(msgspec.Struct):
    """What of a stream's state matters here."""

    class Config(msgspec.Struct):
        allow_direct: bool = False

    class Error(msgspec.Struct):
        description: str = ""

    ts: datetime | None = None
    config: Config = msgspec.field(default_factory=Config)
    error: Error | None = None


_info_decoder = msgspec.json.Decoder(_Info)


class _Bucket:
    """Made by `open`."""

    def __init__(self, client: Any, name: str, timeout: float) -> None:
        self._client = client
        self._js: Any = client.jetstream(timeout=timeout)
        self._name = name
        self._timeout = timeout
        self._is_direct = False
        self._ahead = (0.0, 0.0)  # seconds by which the server's clock is ahead of ours, at least and at most
        self._asked = -math.inf  # when it was asked

    async def _open(self, options: Mapping[str, Any]) -> None:
        settings: dict[str, Any] = {"limit_marker_ttl": _MARKER_TTL, **options}
        async with self._bounded():
            await self._js.create_key_value(KeyValueConfig(bucket=self._name, **settings))
            await self._ask_time()

    @asynccontextmanager
    async def _bounded(self) -> AsyncGenerator[None]:
        """Bound one operation by the time-out, and turn what fails into a `StoreError`."""
        try:
            async with asyncio.timeout(self._timeout):
                yield
        except StoreError:
            raise
        except Exception as error:  # nats-py lets through what asyncio and uvloop raise about a lost socket
            raise self._store_error(error) from error

    def _store_error(self, error: Exception) -> StoreError:
        if isinstance(error, TimeoutError):  # nats-py's is one, too
            why = "" if self._client.is_connected else f", and is not connected: {self._client.last_error}"
            return StoreError(f"NATS: the server did not answer within {self._timeout:g} s{_without_secrets(why)}")
        said = error.description if isinstance(error, APIError) else ""
        if isinstance(error, NoStreamResponseError | NoRespondersError | APIError) and not said:
            return StoreError(f"NATS: nobody answers for the bucket {self._name!r}: it is gone, or JetStream is down")
        return StoreError(f"NATS: {said or _without_secrets(str(error)) or type(error).__name__}")

    async def _ask_time(self) -> None:
        sent = self._asked = boottime()
        answer = await self._client.request(f"$JS.API.STREAM.INFO.KV_{self._name}", b"", timeout=self._timeout)
        received = boottime()
        info = _info_decoder.decode(answer.data)
        if info.error is not None or info.ts is None:
            raise StoreError(f"NATS: {'it tells no time' if info.error is None else info.error.description}")
        server = info.ts.timestamp()
        self._ahead = server - received, server - sent
        self._is_direct = info.config.allow_direct

    async def _now(self) -> tuple[float, float]:
        """The server's time: it is not before the one, and not after the other."""
        if boottime() - self._asked > CLOCK_AGE:
            await self._ask_time()
        now = boottime()
        return now + self._ahead[0], now + self._ahead[1]

    async def _entry(self, key: str) -> _Entry | None:
        try:
            found = await self._js.get_msg(f"KV_{self._name}", subject=self._subject(key), direct=self._is_direct)
        except NotFoundError as error:
            if _code(error) == _NO_STREAM:
                raise
            return None
        headers: Mapping[str, str] = found.headers or {}
        value = b"" if any(name in headers for name in _MARKERS) else found.data or b""
        return _Entry(value, found.seq or 0, found.time.timestamp(), headers)

    async def _keys(self) -> list[str]:
        """All keys, those included of which a marker alone is left: up to 100,000, the first ones by their text.

        From the stream's own state: the client's ``keys()`` reads a consumer, and at times returns before it has begun.
        """
        subjects = self._subject("")
        info = await self._js.stream_info(f"KV_{self._name}", subjects_filter=f"{subjects}>")
        return [subject.removeprefix(subjects) for subject in info.state.subjects or ()]

    def _subject(self, key: str) -> str:
        return f"$KV.{self._name}.{key}"

    async def _delete(self, key: str, expected: int | None = None) -> None:
        # A purge, not a delete: its marker has an end.
        await self._publish(key, b"", _PURGE, _MARKER_TTL, expected)

    async def _publish(
        self, key: str, value: bytes, headers: Mapping[str, str], ttl: float | None, expected: int | None
    ) -> bool:
        """Write, if the key's revision is `expected` (0: there is none). False if it is not."""
        if expected is not None:
            headers = {**headers, _EXPECTED: str(expected)}
        try:
            await self._js.publish(self._subject(key), value, headers=dict(headers) or None, msg_ttl=ttl)
        except APIError as error:
            if _code(error) in _WRONG_SEQUENCE:
                return False
            raise
        return True


class NatsStore(_Bucket):
    """A `KeyValueStore` in a bucket.

    A value is never returned after its time is over by the server's clock, which is read every 30 s. The clocks of the
    nodes do not matter. What `add` may have set though it failed, or was cancelled, is discarded in the background
    until the server has taken that, and so is what `discard` failed to delete. So the value must be the caller's own.
    """

    def __init__(self, client: Client, name: str, timeout: float, prefix: str = "") -> None:
        super().__init__(client, name, timeout)
        self._prefix = prefix
        self._withdrawals = Withdrawals(self._withdraw, lambda: self._client.is_closed)

    @classmethod
    async def open(
        cls, client: Client, bucket: str = "catga-store", *, timeout: float = 5.0, **options: Any
    ) -> "NatsStore":
        """Open the bucket, which is made if need be.

        Args:
            client: the caller's, who closes it.
            timeout: seconds for one operation.
            options: of `nats.js.api.KeyValueConfig`, e.g. ``replicas=3``.
        """
        store = cls(client, bucket, timeout)
        await store._open(options)
        return store

    async def get(self, key: str) -> bytes | None:
        async with self._bounded():
            entry = await self._entry(self._key(key))
            if entry is None or entry.left((await self._now())[1], since_sent=True) <= 0:
                return None
            return entry.value or None

    async def put(self, key: str, value: bytes, ttl: float) -> None:
        async with self._bounded():
            await self._write(self._key(key), value, ttl, None)

    async def add(self, key: str, value: bytes, ttl: float) -> bool:
        try:
            async with self._bounded():
                return await self._add(self._key(key), value, ttl)
        except BaseException as error:
            if not isinstance(error.__cause__, APIError | NoStreamResponseError):  # else it was refused
                self._withdrawals.add(key, value, self._timeout, ttl)
            raise

    async def _add(self, key: str, value: bytes, ttl: float) -> bool:
        if await self._write(key, value, ttl, 0):
            return True
        entry = await self._entry(key)
        if entry is None:
            return await self._write(key, value, ttl, 0)
        if entry.value and not await self._ends(entry):
            return False
        return await self._write(key, value, ttl, entry.revision)

    async def _ends(self, entry: _Entry) -> bool:
        """Return whether `entry` is over, once that is certain: `get` may say so a moment earlier."""
        earliest, latest = await self._now()
        left = entry.left(earliest, since_sent=False)
        if left > MAX_DOUBT or entry.left(latest, since_sent=True) > 0:
            return False
        await asyncio.sleep(max(left, 0.0))
        return True

    async def discard(self, key: str, value: bytes) -> None:
        try:
            await self._discard(key, value)
        except BaseException:
            self._withdrawals.add(key, value)
            raise

    async def _discard(self, key: str, value: bytes) -> None:
        async with self._bounded():
            entry = await self._entry(self._key(key))
            if entry is not None and entry.value == value:
                await self._delete(self._key(key), entry.revision)

    async def _withdraw(self, key: str, value: bytes) -> None:
        async with self._bounded():  # refused, and behind what this connection sent before: an `add` is stored by now
            await self._publish(self._key(key), b"", {}, None, _NEVER)
        await self._discard(key, value)

    async def _write(self, key: str, value: bytes, ttl: float, expected: int | None) -> bool:
        sent = (await self._now())[0]
        headers = {_LIFETIME: str(max(1, math.floor(ttl * 1000))), _SENT: str(int(sent * 1000))}
        return await self._publish(key, value, headers, float(max(1, math.ceil(ttl))), expected)

    def _key(self, key: str) -> str:
        return self._prefix + _key(key)


class NatsDeadLetters(_Bucket):
    """A `DeadLetterStore` in a bucket."""

    def __init__(self, client: Client, name: str, timeout: float) -> None:
        super().__init__(client, name, timeout)
        self.claims = NatsStore(client, name, timeout, prefix=_CLAIMS)

    @classmethod
    async def open(
        cls, client: Client, bucket: str = "catga-dead-letters", *, timeout: float = 5.0, **options: Any
    ) -> "NatsDeadLetters":
        """Like `NatsStore.open`. ``max_bytes`` bounds the bucket."""
        box = cls(client, bucket, timeout)
        await box._open(options)
        return box

    async def put(self, letter: DeadLetter) -> None:
        async with self._bounded():
            await self._publish(_key(letter.id), msgspec.msgpack.encode(letter), {}, None, None)

    async def get(self, letter_id: str) -> DeadLetter | None:
        async with self._bounded():
            return await self._get(_key(letter_id))

    async def _get(self, key: str) -> DeadLetter | None:
        entry = await self._entry(key)
        if entry is None or not entry.value:
            return None
        try:
            return msgspec.msgpack.decode(entry.value, type=DeadLetter)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StoreError(f"what is stored is no dead letter: {error}") from error

    async def remove(self, letter_id: str) -> None:
        async with self._bounded():
            await self._delete(_key(letter_id))

    async def list(self, limit: int) -> "list[DeadLetter]":
        async with self._bounded():
            keys = sorted(key for key in await self._keys() if not key.startswith(_CLAIMS))
        letters: list[DeadLetter] = []
        for key in keys:
            if len(letters) >= limit:
                break
            async with self._bounded():
                letter = await self._get(key)
            if letter is not None:
                letters.append(letter)
        return letters


def _key(key: str) -> str:
    """`key` as one token, or two if it is long. Two keys never share one."""
    short = token(key) if len(key) <= _MAX_KEY else ""
    if 0 < len(short) <= _MAX_KEY:
        return short
    return f"sha256.{hashlib.sha256(key.encode(errors='surrogatepass')).hexdigest()}"


def _code(error: Exception) -> int | None:
    return error.err_code if isinstance(error, APIError) else None


def _without_secrets(text: str) -> str:
    return redact(text) if "://" in text else text
