"""The same message twice, one execution."""

import asyncio
import logging
import os
import random
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec

from catga.abc import Behavior, CallNext
from catga.codec import Codec, digest, encode
from catga.errors import (
    INSIDE,
    CatgaError,
    CatgaTimeoutError,
    InProgressError,
    InvalidMessageError,
    StoreError,
    holds_doubt,
    inside,
    refused,
    settle_doubt,
)
from catga.mediator.behaviors.matching import expect_key, expect_store
from catga.mediator.behaviors.store import KeyValueStore, MemoryStore, key_text
from catga.mediator.message_context import current_message
from catga.mediator.settling import begin, settle
from catga.messages import is_event

logger = logging.getLogger("catga.behaviors")

T = TypeVar("T")

_CLAIM = b"\0"
_RESULT = b"\1"
_PAUSE, _MAX_PAUSE = 0.01, 0.5
_MAX_KEYS = 1_000_000
_DIGEST = 16
"""Bytes of the digest of a message's content that stand in a claim and beside a value."""
_NONCE = 16
_GRACE = 1.0
"""Seconds that a claim outlives its run's lease: a run that is cancelled needs a moment to end."""


class _Ran(msgspec.Struct, array_like=True):
    """What is kept of a run that went well: its value, or why that is lost; which message it was, and where; the digest
    of its content."""

    body: bytes | None
    lost: str = ""
    message_id: str = ""
    node_id: str = ""
    content: bytes = b""


class Idempotency:
    """Runs messages with the same key once; a duplicate gets the first one's value.

    Whoever claims the key in the store runs the handler; a duplicate that comes meanwhile waits for the value. A
    failed run frees the key, so that the message may be tried again. A message with the same key and another content is
    refused with `InvalidMessageError`, as it is no duplicate. If the node dies in mid-run, or the handler fails because
    of something that may have run, the claim ends soon after its lease, and the message may run a second time.

    Nodes that share the store share its keys. What is to run on each of them (`broadcast`, `send_to_all`) needs a
    store of each node's own, if it has a `key`; and services that handle an event by the same function, one each. With
    `MessageContext` the nodes that find such a message taken fail, unless it is marked ``idempotent``.

    Args:
        store: shared by the nodes that may get duplicates; by default this process's memory, for a million keys. When
            all of them are in use, new messages fail with `StoreError`.
        key: of a message: str, bytes, int, UUID, an enum of these, or a tuple of them; by default its ``message_id``
            (needs `MessageContext`), which only recognises the repeats that failover makes of an idempotent request.
        ttl: seconds a value is remembered.
        lease: seconds a run may take; it is cancelled then, a second before another may start.
        wait: seconds a duplicate waits for the value until `InProgressError`.

    Raises:
        TypeError: `key` is not a function, or `store` is not a store.
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
        expect_key(key)
        expect_store(store, "discard", "MemoryStore() or RedisStore(client)")
        self._store = store or MemoryStore(max_entries=_MAX_KEYS)
        self._key = key
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
        key = self._key_of(message, codec, handler)
        content = _content(message)
        claim = _CLAIM + os.urandom(_NONCE) + content
        found = await self._claim(key, claim, codec)
        if isinstance(found, bytes):
            return _value(found, codec, content)
        limit = asyncio.timeout_at(found)
        try:
            async with limit:
                value = await call_next(message)
        except BaseException as error:
            is_late = isinstance(error, Exception) and limit.expired()  # it was cut off, whatever it ended with then
            if not is_late and not codec.idempotent and isinstance(error, Exception) and holds_doubt(error):
                text = "%s may have been run in part: its key is free when its lease of %g s ends"
                logger.warning(text, codec.name, self._lease, extra={"catga_message": codec.name})
                raise
            await settle(self._free(key, claim))
            if is_late:
                late = CatgaTimeoutError(f"{codec.name} took longer than its lease of {self._lease:g} s")
                raise settle_doubt(late, idempotent=codec.idempotent) from error
            raise
        await settle(self._remember(key, None if is_event(codec.cls) else value, content))
        return value

    def _key_of(self, message: object, codec: Codec, handler: str) -> str:
        key = _message_id(message, codec) if self._key is None else self._key(message)
        parts = ["idempotency", codec.name, key_text(key)]
        if is_event(codec.cls):
            parts.insert(2, handler)
        return ":".join(parts)

    async def _claim(self, key: str, claim: bytes, codec: Codec) -> float | bytes:
        """The loop's time at which our lease ends, once the key is ours; else what is known of the run before.

        Raises:
            InvalidMessageError: a message with another content holds the key.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._wait
        pause = _PAUSE
        while True:
            lease_end = loop.time() + self._lease  # the store's ends later, as it sets the claim after now
            if await self._or_free(key, claim, self._store.add(key, claim, self._lease + _GRACE)):
                return lease_end
            held = await self._or_free(key, claim, self._store.get(key))
            if held == claim:  # the store's client sent `add` again, as the first reply was lost
                return lease_end
            if held is not None and not held.startswith(_CLAIM):
                return held
            if held is not None:
                _expect_same(held[1 + _NONCE :], claim[1 + _NONCE :], codec)
            if loop.time() >= deadline:
                raise InProgressError(f"the same {codec.name} is still being run after {self._wait:g} s")
            await asyncio.sleep(random.uniform(pause / 2, pause))
            pause = min(2 * pause, _MAX_PAUSE)

    async def _or_free(self, key: str, claim: bytes, answer: Awaitable[T]) -> T:
        try:
            return await answer
        except BaseException:  # the claim may be there all the same, and nobody would run under it
            begin(self._free(key, claim))  # the store is slow to answer, and the caller has waited already
            raise

    async def _free(self, key: str, claim: bytes) -> None:
        try:
            await self._store.discard(key, claim)
        except CatgaError as error:
            text = "a claim could not be freed, and ends with its lease: %s"
            logger.warning(text, error, extra={"catga_error": str(error)})

    async def _remember(self, key: str, value: object, content: bytes) -> None:
        try:
            await self._store.put(key, _encoded(value, content), self._ttl)
        except CatgaError as error:
            # It ran: to fail now would invite the very repeat that this prevents.
            logger.warning("a value could not be remembered: %s", error, extra={"catga_error": str(error)})

    def _codec(self, cls: type) -> Codec:
        codec = self._codecs.get(cls)
        if codec is None:
            codec = self._codecs[cls] = Codec(cls)
        return codec


def _content(message: object) -> bytes:
    try:
        return digest(message)[:_DIGEST]
    except InvalidMessageError as error:
        raise inside(error) from error.__cause__


def _expect_same(first: bytes, content: bytes, codec: Codec) -> None:
    """Raise InvalidMessageError if `first`, the content that has the key, is another. An older version tells none."""
    if first and first != content:
        raise refused(f"another {codec.name} had the same key: one with another content needs a key of its own", INSIDE)


def _encoded(value: object, content: bytes) -> bytes:
    info = current_message()
    ran = _Ran(None, "", info.message_id, info.node_id, content)
    try:
        ran.body = encode(value)
    except InvalidMessageError as error:
        ran.lost = str(error)
    return _RESULT + encode(ran)


def _value(found: bytes, codec: Codec, content: bytes) -> Any:
    try:
        ran = msgspec.msgpack.decode(found[1:], type=_Ran)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StoreError(f"what is stored is no value of {codec.name}: {error}") from error
    _expect_same(ran.content, content, codec)
    info = current_message()
    is_same = bool(info.message_id) and ran.message_id == info.message_id
    if is_same and not codec.idempotent and ran.node_id != info.node_id:
        # Failover does not repeat what may not run twice. To acknowledge it would be to lose it.
        raise refused(
            f"{codec.name} was sent to several nodes, and {ran.node_id} ran it under the key that they share: "
            "give each its own store",
            INSIDE,
        )
    if ran.body is None:
        raise refused(f"{codec.name} ran before, and its value was lost: {ran.lost}", INSIDE)
    return codec.decode_response(ran.body)


def _message_id(message: object, codec: Codec) -> object:
    info = current_message()
    if not info.message_id:
        name = type(message).__qualname__
        raise refused(f"{name} has no idempotency key: give Idempotency(key=...), or install MessageContext", INSIDE)
    # The id is one on all nodes that a verb reaches. Failover alone reaches one in place of another, and only with
    # what may run twice; an event may as well have been broadcast.
    is_shared = codec.idempotent and not is_event(codec.cls)
    return info.message_id if is_shared else (info.node_id, info.message_id)
