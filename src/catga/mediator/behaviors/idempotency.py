"""The same message twice, one execution."""

import asyncio
import logging
import os
import random
from collections.abc import Callable
from typing import Any

from catga.abc import Behavior, CallNext
from catga.codec import Codec, encode
from catga.errors import CatgaError, CatgaTimeoutError, InProgressError, InvalidMessageError
from catga.mediator.behaviors.store import KeyValueStore, MemoryStore
from catga.mediator.context import current_message
from catga.messages import is_event

logger = logging.getLogger("catga.behaviors")

_CLAIM = b"\0"
_RESULT = b"\1"
_PAUSE, _MAX_PAUSE = 0.01, 0.5


class Idempotency:
    """Runs messages with the same key once; a duplicate gets the first one's value.

    Whoever claims the key in the store runs the handler; a duplicate that comes meanwhile waits for the value. A
    failed run frees the key, so that the message may be tried again. If the node dies in mid-run, the claim ends
    with its lease and the message may run a second time: at most once as long as nodes live, not beyond.

    Args:
        store: shared by the nodes that may get duplicates; by default this process's memory.
        key: of a message; by default its ``message_id`` (needs `MessageContext`), which only recognises the
            repeats that failover makes.
        ttl: seconds a value is remembered.
        lease: seconds a run may take; it is cancelled then, before another may start.
        wait: seconds a duplicate waits for the value until `InProgressError`.
    """

    def __init__(
        self,
        store: KeyValueStore | None = None,
        *,
        key: Callable[[Any], object] | None = None,
        ttl: float = 86_400.0,
        lease: float = 60.0,
        wait: float = 30.0,
    ) -> None:
        self._store = store or MemoryStore()
        self._key = key or _message_id
        self._ttl = ttl
        self._lease = lease
        self._wait = wait
        self._codecs: dict[type, Codec] = {}

    def bound_to(self, handler: str) -> Behavior:
        """Each handler of an event runs once."""

        async def step(message: object, call_next: CallNext[Any, Any]) -> Any:
            return await self._once(message, call_next, handler)

        return step

    async def __call__(self, message: object, call_next: CallNext[Any, Any]) -> Any:
        return await self._once(message, call_next, "")

    async def _once(self, message: object, call_next: CallNext[Any, Any], handler: str) -> Any:
        codec = self._codec(type(message))
        parts = (
            [codec.name, handler, self._key(message)] if is_event(type(message)) else [codec.name, self._key(message)]
        )
        key = "idempotency:" + ":".join(str(part) for part in parts)
        claim = _CLAIM + os.urandom(16)
        result = await self._claim(key, claim)
        if result is not None:
            return codec.decode_response(result)
        limit = asyncio.timeout(self._lease)
        try:
            async with limit:
                value = await call_next(message)
        except BaseException as error:
            await self._free(key, claim)
            if isinstance(error, TimeoutError) and limit.expired():
                raise CatgaTimeoutError(f"{codec.name} took longer than its lease of {self._lease:g} s") from error
            raise
        await self._remember(key, encode(value))
        return value

    async def _claim(self, key: str, claim: bytes) -> bytes | None:
        """None once the key is ours, else the value of whoever had it."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._wait
        pause = _PAUSE
        while not await self._store.add(key, claim, self._lease):
            held = await self._store.get(key)
            if held is not None and held.startswith(_RESULT):
                return held[1:]
            if loop.time() >= deadline:
                raise InProgressError(f"the same message is still being run after {self._wait:g} s")
            await asyncio.sleep(random.uniform(pause / 2, pause))
            pause = min(2 * pause, _MAX_PAUSE)
        return None

    async def _free(self, key: str, claim: bytes) -> None:
        try:
            await self._store.discard(key, claim)
        except CatgaError as error:
            logger.warning("a claim could not be freed: it ends with its lease", extra={"catga_error": str(error)})

    async def _remember(self, key: str, body: bytes) -> None:
        try:
            await self._store.put(key, _RESULT + body, self._ttl)
        except CatgaError as error:
            # It ran: to fail now would invite the very repeat that this prevents.
            logger.warning("a value could not be remembered", extra={"catga_error": str(error)})

    def _codec(self, cls: type) -> Codec:
        codec = self._codecs.get(cls)
        if codec is None:
            codec = self._codecs[cls] = Codec(cls)
        return codec


def _message_id(message: object) -> object:
    info = current_message()
    if info is None:
        name = type(message).__qualname__
        raise InvalidMessageError(
            f"{name} has no idempotency key: give Idempotency(key=...), or install MessageContext"
        )
    return info.message_id
