"""Answers that are good for a while."""

import asyncio
import copy
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from catga.abc import CallNext
from catga.codec import Codec, digest, encode
from catga.errors import CatgaError, InvalidMessageError, inside
from catga.mediator.behaviors.matching import expect_key, expect_store
from catga.mediator.behaviors.store import KeyValueStore, MemoryStore, key_text
from catga.messages import is_request

logger = logging.getLogger("catga.behaviors")


class _Flight:
    """A run that equal requests wait for. How it ended: with a body, with an error, or in neither way."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.body: bytes | None = None
        self.error: Exception | None = None


class Caching:
    """Answers a request from the store if an equal one was answered within `ttl` seconds.

    Install it for requests that only read: ``mediator.behavior(only=GetPrice)(Caching(ttl=5))``. Equal requests that
    come at the same time run the handler once for each process: the others wait, and get its value, or its failure. If
    the first is cancelled, another one runs. Failures are not kept; events pass through; a store that fails is a miss.

    Args:
        store: by default this process's memory.
        key: of a request: str, bytes, int, UUID, an enum of these, or a tuple of them; by default its whole content.

    Raises:
        ValueError: `ttl` is not positive.
        TypeError: `key` is not a function, or `store` is not a store.
    """

    def __init__(
        self, store: KeyValueStore | None = None, *, ttl: float, key: Callable[[Any], object] | None = None
    ) -> None:
        if not ttl > 0:
            raise ValueError(f"ttl must be a positive number of seconds, got {ttl!r}")
        expect_key(key)
        expect_store(store, "discard", "MemoryStore() or RedisStore(client)")
        self._store = store or MemoryStore(max_entries=10_000)
        self._ttl = ttl
        self._key = key or _digest
        self._codecs: dict[type, Codec] = {}
        self._flights: dict[tuple[asyncio.AbstractEventLoop, str], _Flight] = {}

    async def __call__(self, message: object, call_next: CallNext[Any, Any]) -> Any:
        if not is_request(type(message)):
            return await call_next(message)
        codec = self._codec(type(message))
        key = f"cache:{codec.name}:{key_text(self._key(message))}"
        place = (asyncio.get_running_loop(), key)
        while (others := self._flights.get(place)) is not None:
            await others.ended.wait()
            if others.body is not None:
                return codec.decode_response(others.body)
            if others.error is not None:
                raise _copied(others.error) from others.error
        flight = self._flights[place] = _Flight()
        try:
            return await self._answer(flight, key, codec, lambda: call_next(message))
        except Exception as error:
            flight.error = error
            raise
        finally:
            del self._flights[place]
            flight.ended.set()

    async def _answer(self, flight: _Flight, key: str, codec: Codec, run: Callable[[], Awaitable[Any]]) -> Any:
        """Return the value from the store or from the handler, and give it to `flight`."""
        try:
            flight.body = await self._store.get(key)
            if flight.body is not None:
                return codec.decode_response(flight.body)
        except CatgaError as error:
            flight.body = None
            logger.warning("the cache could not be read: %s", error, extra={"catga_error": str(error)})
        value = await run()
        try:
            flight.body = encode(value)
            await self._store.put(key, flight.body, self._ttl)
        except CatgaError as error:
            logger.warning("the cache could not be written: %s", error, extra={"catga_error": str(error)})
        return value

    def _codec(self, cls: type) -> Codec:
        codec = self._codecs.get(cls)
        if codec is None:
            codec = self._codecs[cls] = Codec(cls)
        return codec


def _digest(message: object) -> bytes:
    try:
        return digest(message)  # `Codec` has refused a class of which a part would be left out
    except InvalidMessageError as error:
        raise inside(error) from error.__cause__


def _copied(error: Exception) -> Exception:
    """Return an error for one more caller, as each is changed on its way out; itself if its class does not let it."""
    try:
        return copy.copy(error)
    except Exception:  # noqa: BLE001 - a class of the user's
        return error
