"""Where behaviors keep what several nodes must agree on: keys with values and a lifetime."""

import hashlib
import heapq
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

from catga.errors import INSIDE, InvalidMessageError, StoreError, inside, refused
from catga.keys import key_bytes

_FEW = 1000
"""Ends beyond twice the entries, above which the heap of them is made anew."""


def key_text(key: object) -> str:
    """Return what a user's `key` gave, as text: the same exactly for equal keys, in every process. It tells nothing of
    the key, as stores are read by others.

    Raises:
        InvalidMessageError: it is None, which would make all messages one, or has no stable bytes.
    """
    if key is None:
        raise refused("the function `key` returned None: each message needs a key", INSIDE)
    try:
        return hashlib.sha256(key_bytes(key)).hexdigest()
    except InvalidMessageError as error:
        raise inside(error)  # noqa: B904 - the same error


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
        """Set the value for `ttl` seconds if there is none, and say whether it was set. Atomic. The value is the
        caller's own, as for `discard`: the store may take it back if it cannot say."""
        ...

    async def discard(self, key: str, value: bytes) -> None:
        """Delete the key if it still has this value. Atomic."""
        ...


class _Entry(NamedTuple):
    value: bytes
    end: float


class MemoryStore:
    """A `KeyValueStore` in a dictionary.

    Args:
        max_entries: when full, what was put first goes. What was added stays until its time is over, and so does a
            value that is put in its place: somebody counts on it. A store that is full of that raises `StoreError`.
        clock: seconds, monotonic.
    """

    def __init__(self, *, max_entries: int = 100_000, clock: Callable[[], float] = time.monotonic) -> None:
        self._added: dict[str, _Entry] = {}
        self._put: dict[str, _Entry] = {}
        self._ends: list[tuple[float, str]] = []  # a heap, with ends that no entry has any more among them
        self._max_entries = max_entries
        self._clock = clock

    async def get(self, key: str) -> bytes | None:
        entry = self._look_up(key)
        return None if entry is None else entry.value

    async def put(self, key: str, value: bytes, ttl: float) -> None:
        self._look_up(key)  # what is over is not in the way
        if key not in self._added:
            self._put.pop(key, None)  # it is the newest now
        self._set(self._added if key in self._added else self._put, key, value, ttl)

    async def add(self, key: str, value: bytes, ttl: float) -> bool:
        if self._look_up(key) is not None:
            return False
        self._set(self._added, key, value, ttl)
        return True

    async def discard(self, key: str, value: bytes) -> None:
        entry = self._look_up(key)
        if entry is not None and entry.value == value:
            self._delete(key)

    def _look_up(self, key: str) -> _Entry | None:
        entry = self._added.get(key) or self._put.get(key)
        if entry is not None and entry.end <= self._clock():
            self._delete(key)
            return None
        return entry

    def _set(self, entries: dict[str, _Entry], key: str, value: bytes, ttl: float) -> None:
        if key not in entries:
            self._make_room()
        entry = entries[key] = _Entry(value, self._clock() + ttl)
        heapq.heappush(self._ends, (entry.end, key))
        if len(self._ends) > _FEW + 2 * self._size:
            self._ends = [(entry.end, key) for part in (self._added, self._put) for key, entry in part.items()]
            heapq.heapify(self._ends)

    def _make_room(self) -> None:
        now = self._clock()
        while self._ends and self._ends[0][0] <= now:
            self._look_up(heapq.heappop(self._ends)[1])
        if self._size < self._max_entries:
            return
        if not self._put:
            text = f"{self._max_entries} keys are in use, which is the limit of this store"
            raise StoreError(f"{text}: give it more max_entries, or its keys a shorter ttl")
        del self._put[next(iter(self._put))]

    def _delete(self, key: str) -> None:
        self._added.pop(key, None)
        self._put.pop(key, None)

    @property
    def _size(self) -> int:
        return len(self._added) + len(self._put)
