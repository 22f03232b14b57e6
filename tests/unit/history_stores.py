"""Stores that fail in every way, by a seed: before the effect, after it, late, never, and with what is lost."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from behavior_histories import now, turns

from catga.errors import StoreError
from catga.mediator.behaviors import DeadLetter, MemoryDeadLetters, MemoryStore

T = TypeVar("T")

BEFORE, AFTER, LATE, LATE_REPLY, NEVER, GHOST, LOSS = "before", "after", "late", "late reply", "never", "ghost", "loss"
TWICE = "twice"
"""The client sent it again, as the first reply was lost."""
BOUND = 2.0
"""Seconds in which each operation returns or raises."""


class Faults:
    """What goes wrong with the operations of a store, and what did.

    Args:
        loss: what a store keeps may be lost.
    """

    def __init__(self, rng: random.Random, *, loss: bool = False) -> None:
        self._rng = rng
        self._kinds = (BEFORE, AFTER, LATE, LATE_REPLY, NEVER, GHOST, TWICE, TWICE, TWICE, *((LOSS,) if loss else ()))
        self.rate = rng.choice((0.0, 0.0, 0.1, 0.3))
        self.seen: list[tuple[str, str]] = []
        """Operation and key of each fault."""

    def hit(self, key: str, *operations: str) -> bool:
        """Return whether one of these operations with `key` went wrong."""
        return any((operation, key) in self.seen for operation in operations)

    async def do(self, operation: str, key: str, work: Callable[[], Awaitable[T]], lost: Callable[[], Any]) -> T:
        """Do `work`, or what is left of it; `lost` loses what is kept."""
        kind = self._rng.choice(self._kinds) if self._rng.random() < self.rate else ""
        if kind not in ("", TWICE):
            self.seen.append((operation, key))
        await turns(self._rng.randrange(3))
        if kind in (BEFORE, NEVER, GHOST):
            await self._no_effect(kind, work)
        if kind == LATE:
            await asyncio.sleep(0.2)
        if kind == LOSS:
            lost()
        if kind == TWICE:
            await work()
        value = await work()
        await turns(self._rng.randrange(3))
        if kind == LATE_REPLY:
            await asyncio.sleep(0.2)
        if kind == AFTER:
            raise StoreError("after the effect")
        return value

    async def _no_effect(self, kind: str, work: Callable[[], Awaitable[Any]]) -> None:
        if kind == GHOST:  # nobody waits for it any more
            asyncio.get_running_loop().call_later(0.5, lambda: asyncio.ensure_future(work()))
        if kind == NEVER:
            await asyncio.sleep(BOUND)
        raise StoreError("before the effect")


class FaultyStore:
    """A `KeyValueStore` with faults."""

    def __init__(self, faults: Faults) -> None:
        self.inner = MemoryStore(clock=now)
        self.faults = faults

    async def _do(self, operation: str, key: str, *rest: Any) -> Any:
        work: Callable[..., Awaitable[Any]] = getattr(self.inner, operation)
        return await self.faults.do(operation, key, lambda: work(key, *rest), lambda: self.inner._delete(key))

    async def get(self, key: str) -> bytes | None:
        found: bytes | None = await self._do("get", key)
        return found

    async def put(self, key: str, value: bytes, ttl: float) -> None:
        await self._do("put", key, value, ttl)

    async def add(self, key: str, value: bytes, ttl: float) -> bool:
        return bool(await self._do("add", key, value, ttl))

    async def discard(self, key: str, value: bytes) -> None:
        await self._do("discard", key, value)

    def claims(self) -> list[str]:
        """The keys that are claimed."""
        return [key for key, entry in self.inner._added.items() if entry.value[:1] == b"\0" and entry.end > now()]


class FaultyClaims(FaultyStore):
    """Where the replays of letters are claimed. Its faults are called by what they are for."""

    async def _do(self, operation: str, key: str, *rest: Any) -> Any:
        work: Callable[..., Awaitable[Any]] = getattr(self.inner, operation)
        name = {"add": "claim", "discard": "release"}.get(operation, "renew")
        return await self.faults.do(name, key, lambda: work(key, *rest), lambda: None)


class FaultyLetters:
    """A `DeadLetterStore` with faults, which nodes share."""

    def __init__(self, faults: Faults) -> None:
        self.inner = MemoryDeadLetters()
        self.faults = faults
        self.claims = FaultyClaims(faults)
        self.written: list[DeadLetter] = []

    async def put(self, letter: DeadLetter) -> None:
        async def put() -> None:
            self.written.append(letter)
            await self.inner.put(letter)

        await self._do("put", letter.id, put)

    async def get(self, letter_id: str) -> DeadLetter | None:
        return await self._do("get", letter_id, lambda: self.inner.get(letter_id))

    async def remove(self, letter_id: str) -> None:
        await self._do("remove", letter_id, lambda: self.inner.remove(letter_id))

    async def list(self, limit: int) -> "list[DeadLetter]":
        return await self.inner.list(limit)

    async def _do(self, operation: str, key: str, work: Callable[[], Awaitable[T]]) -> T:
        return await self.faults.do(operation, key, work, lambda: None)
