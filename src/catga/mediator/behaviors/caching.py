"""Answers that are good for a while."""

import hashlib
import logging
from collections.abc import Callable
from typing import Any

from catga.abc import CallNext
from catga.codec import Codec, encode
from catga.errors import CatgaError, InvalidMessageError, inside
from catga.mediator.behaviors.store import KeyValueStore, MemoryStore, key_text
from catga.messages import is_request

logger = logging.getLogger("catga.behaviors")


class Caching:
    """Answers a request from the store if an equal one was answered within `ttl` seconds.

    Install it for requests that only read: ``mediator.behavior(only=GetPrice)(Caching(ttl=5))``. Failures are not
    kept; events pass through; a store that fails is a miss.

    Args:
        store: by default this process's memory.
        key: of a request, anything but None; by default its whole content.
    """

    def __init__(
        self, store: KeyValueStore | None = None, *, ttl: float, key: Callable[[Any], object] | None = None
    ) -> None:
        if not ttl > 0:
            raise ValueError(f"ttl must be a positive number of seconds, got {ttl!r}")
        self._store = store or MemoryStore(max_entries=10_000)
        self._ttl = ttl
        self._key = key or _digest
        self._codecs: dict[type, Codec] = {}

    async def __call__(self, message: object, call_next: CallNext[Any, Any]) -> Any:
        if not is_request(type(message)):
            return await call_next(message)
        codec = self._codec(type(message))
        key = f"cache:{codec.name}:{key_text(self._key(message))}"
        try:
            body = await self._store.get(key)
            if body is not None:
                return codec.decode_response(body)
        except CatgaError as error:
            logger.warning("the cache could not be read", extra={"catga_error": str(error)})
        value = await call_next(message)
        try:
            await self._store.put(key, encode(value), self._ttl)
        except CatgaError as error:
            logger.warning("the cache could not be written", extra={"catga_error": str(error)})
        return value

    def _codec(self, cls: type) -> Codec:
        codec = self._codecs.get(cls)
        if codec is None:
            codec = self._codecs[cls] = Codec(cls)
        return codec


def _digest(message: object) -> str:
    try:
        body = encode(message)  # `Codec` has refused a class of which a part would be left out
    except InvalidMessageError as error:
        raise inside(error) from error.__cause__
    return hashlib.sha256(body).hexdigest()
