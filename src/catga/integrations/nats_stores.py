"""NATS JetStream key-value buckets behind behaviors: `NatsStore` for `Idempotency` and `Caching`, and
`NatsDeadLetters`. They need a server of version 2.11 or later, which has lifetimes per key.
"""

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import msgspec
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.api import KeyValueConfig
from nats.js.errors import APIError, KeyNotFoundError

from catga.errors import StoreError
from catga.mediator.behaviors import DeadLetter
from catga.node import token

_EXPECTED = "Nats-Expected-Last-Subject-Sequence"
_WRONG_SEQUENCE = (10071, 10164)
_PURGE = {"KV-Operation": "PURGE", "Nats-Rollup": "sub"}
_MARKER_TTL = 1.0
"""Seconds that the mark of a deletion stays."""
_MAX_KEY = 200
"""Characters of a key in a subject. A client may choose longer ones, and a server closes the connection over 4 KB."""


class _Bucket:
    """Args: `kv`, `js`, `name`: see ``open``, which makes them."""

    def __init__(self, kv: Any, js: Any, name: str) -> None:
        self._kv = kv
        self._js = js
        self._name = name

    async def _entry(self, key: str) -> tuple[bytes, int] | None:
        """(value, revision); the value is empty where only a marker of an expired key is left."""
        try:
            entry = await self._kv.get(key)
        except KeyNotFoundError as error:
            gone = getattr(error, "entry", None)
            return None if gone is None else (b"", gone.revision or 0)
        except (NatsError, OSError) as error:
            raise _store_error(error) from error
        return entry.value or b"", entry.revision or 0

    async def _keys(self) -> list[str]:
        """All keys, those included of which a marker alone is left: up to 100,000, the first ones by their text.

        From the stream's own state: the client's ``keys()`` reads a consumer, and at times returns before it has begun.
        """
        subjects = f"$KV.{self._name}."
        try:
            info = await self._js.stream_info(f"KV_{self._name}", subjects_filter=f"{subjects}>")
        except (NatsError, OSError) as error:
            raise _store_error(error) from error
        return [subject.removeprefix(subjects) for subject in info.state.subjects or ()]

    async def _write(self, key: str, value: bytes, ttl: float | None, expected: int | None) -> bool:
        """Write, if the key's revision is `expected` (0: there is none). False if it is not."""
        return await self._publish(key, value, {}, None if ttl is None else float(max(1, math.ceil(ttl))), expected)

    async def _delete(self, key: str, expected: int | None = None) -> None:
        # A purge, not a delete: its marker has an end.
        await self._publish(key, b"", _PURGE, _MARKER_TTL, expected)

    async def _publish(
        self, key: str, value: bytes, headers: Mapping[str, str], ttl: float | None, expected: int | None
    ) -> bool:
        if expected is not None:
            headers = {**headers, _EXPECTED: str(expected)}
        try:
            await self._js.publish(f"$KV.{self._name}.{key}", value, headers=dict(headers) or None, msg_ttl=ttl)
        except APIError as error:
            if error.err_code in _WRONG_SEQUENCE:
                return False
            raise _store_error(error) from error
        except (NatsError, OSError) as error:
            raise _store_error(error) from error
        return True


class NatsStore(_Bucket):
    """A `KeyValueStore` in a bucket. Lifetimes are rounded up to whole seconds."""

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
        return cls(*await _open(client, bucket, timeout, options))

    async def get(self, key: str) -> bytes | None:
        entry = await self._entry(_key(key))
        return None if entry is None else entry[0] or None

    async def put(self, key: str, value: bytes, ttl: float) -> None:
        await self._write(_key(key), value, ttl, None)

    async def add(self, key: str, value: bytes, ttl: float) -> bool:
        if await self._write(_key(key), value, ttl, 0):
            return True
        entry = await self._entry(_key(key))
        if entry is not None and entry[0]:
            return False
        return await self._write(_key(key), value, ttl, 0 if entry is None else entry[1])

    async def discard(self, key: str, value: bytes) -> None:
        entry = await self._entry(_key(key))
        if entry is not None and entry[0] == value:
            await self._delete(_key(key), entry[1])


class NatsDeadLetters(_Bucket):
    """A `DeadLetterStore` in a bucket."""

    @classmethod
    async def open(
        cls, client: Client, bucket: str = "catga-dead-letters", *, timeout: float = 5.0, **options: Any
    ) -> "NatsDeadLetters":
        """Like `NatsStore.open`. ``max_bytes`` bounds the bucket."""
        return cls(*await _open(client, bucket, timeout, options))

    async def put(self, letter: DeadLetter) -> None:
        await self._write(_key(letter.id), msgspec.msgpack.encode(letter), None, None)

    async def get(self, letter_id: str) -> DeadLetter | None:
        return await self._get(_key(letter_id))

    async def _get(self, key: str) -> DeadLetter | None:
        entry = await self._entry(key)
        if entry is None or not entry[0]:
            return None
        try:
            return msgspec.msgpack.decode(entry[0], type=DeadLetter)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StoreError(f"what is stored is no dead letter: {error}") from error

    async def remove(self, letter_id: str) -> None:
        await self._delete(_key(letter_id))

    async def list(self, limit: int) -> "list[DeadLetter]":
        letters: list[DeadLetter] = []
        for key in sorted(await self._keys()):
            if len(letters) >= limit:
                break
            letter = await self._get(key)
            if letter is not None:
                letters.append(letter)
        return letters


async def _open(client: Client, bucket: str, timeout: float, options: dict[str, Any]) -> tuple[Any, Any, str]:
    untyped: Any = client  # in part
    js: Any = untyped.jetstream(timeout=timeout)
    settings: dict[str, Any] = {"limit_marker_ttl": _MARKER_TTL, **options}
    config = KeyValueConfig(bucket=bucket, **settings)
    try:
        return await js.create_key_value(config), js, bucket
    except (NatsError, OSError) as error:
        raise _store_error(error) from error


def _key(key: str) -> str:
    """`key` as one token, or two if it is long. Two keys never share one."""
    short = token(key) if len(key) <= _MAX_KEY else ""
    if 0 < len(short) <= _MAX_KEY:
        return short
    return f"sha256.{hashlib.sha256(key.encode(errors='surrogatepass')).hexdigest()}"


def _store_error(error: Exception) -> StoreError:
    return StoreError(f"NATS: {str(error) or type(error).__name__}")
