"""Where behaviors keep what several nodes must agree on: keys with values and a lifetime."""

import re
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

from catga.errors import INSIDE, StoreError, refused

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def key_text(key: object) -> str:
    """What a user's `key` gave, as text: different for different keys, as 1 and "1"; the same in every process.

    Raises:
        InvalidMessageError: it is None, which would make all messages one, or has no text but its address.
    """
    if key is None:
        raise refused("the function `key` returned None: each message needs a key", INSIDE)
    cls = type(key)
    text = f"{cls.__qualname__}({key})" if cls.__repr__ is object.__repr__ else repr(key)
    if _ADDRESS.search(text):
        raise refused(f"the function `key` returned {text:.80}: give text, a number, or a tuple of them", INSIDE)
    return text


class KeyValueStore(Protocol):
    """Bytes by key. Every method returns in a bounded time, or raises `StoreError`.

    `MemoryStore` serves one process; `catga.integrations.redis_stores` and `catga.integrations.nats_stores` serve
    a cluster.
    """

    async def get(self, key: str) -> bytes | None:
        """The value; None if there is none, or its time is over."""
        ...

    async def put(self, key: str, value: bytes, ttl: float) -> None:
        """Set the value for `ttl` seconds."""
        ...

    async def add(self, key: str, value: bytes, ttl: float) -> bool:
        """Set the value for `ttl` seconds if there is none, and say whether it was set. Atomic."""
        ...

    async def discard(self, key: str, value: bytes) -> None:
        """Delete the key if it still has this value. Atomic."""
        ...


class _Entry(NamedTuple):
    value: bytes
    end: float
    is_added: bool


class MemoryStore:
    """A `KeyValueStore` in a dictionary.

    Args:
        max_entries: when full, what is over goes first, then what was put first. What was added stays until its time
            is over: somebody counts on it. A store that is full of that raises `StoreError`.
        clock: seconds, monotonic.
    """

    def __init__(self, *, max_entries: int = 100_000, clock: Callable[[], float] = time.monotonic) -> None:
        self._entries: dict[str, _Entry] = {}
        self._max_entries = max_entries
        self._clock = clock

    async def get(self, key: str) -> bytes | None:
        return self._get(key)

    async def put(self, key: str, value: bytes, ttl: float) -> None:
        self._put(key, value, ttl, is_added=False)

    async def add(self, key: str, value: bytes, ttl: float) -> bool:
        if self._get(key) is not None:
            return False
        self._put(key, value, ttl, is_added=True)
        return True

    async def discard(self, key: str, value: bytes) -> None:
        if self._get(key) == value:
            del self._entries[key]

    def _get(self, key: str) -> bytes | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.end <= self._clock():
            del self._entries[key]
            return None
        return entry.value

    def _put(self, key: str, value: bytes, ttl: float, *, is_added: bool) -> None:
        self._entries.pop(key, None)
        if len(self._entries) >= self._max_entries:
            self._make_room()
        self._entries[key] = _Entry(value, self._clock() + ttl, is_added)

    def _make_room(self) -> None:
        now = self._clock()
        self._entries = {key: entry for key, entry in self._entries.items() if entry.end > now}
        spare = [key for key, entry in self._entries.items() if not entry.is_added]
        for key in spare[: max(0, len(self._entries) - self._max_entries * 9 // 10)]:
            del self._entries[key]  # a tenth at once, so that the next ones find room
        if len(self._entries) >= self._max_entries:
            raise StoreError(f"{self._max_entries} keys are in use, which is the limit")
