"""Answers that are good for a while."""

import asyncio
import copy
import logging
from collections.abc import Callable
from typing import Any, TypeAlias

from catga.abc import CallNext
from catga.codec import Codec, digest, encode
from catga.errors import CatgaError, InvalidMessageError, StoreError, inside
from catga.mediator.behaviors.matching import expect_key, expect_store
from catga.mediator.behaviors.store import KeyValueStore, MemoryStore, key_text
from catga.mediator.settling import begin
from catga.messages import is_request
from catga.result import Success

logger = logging.getLogger("catga.behaviors")

MAX_WRITES = 1000
"""Values that wait to be stored, of one cache; what is beyond is not kept."""

_Place: TypeAlias = tuple[asyncio.AbstractEventLoop, str]


class _Flight:
    """A run that equal requests wait for. How it ended: with a body, with an error, or in neither way. One with a body
    that was `made` goes on until that is in the store, or `ttl` is over."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.body: bytes | None = None
        self.error: Exception | None = None
        self.made: float | None = None

    def is_fresh(self, ttl: float) -> bool:
        """Whether others may wait for the body, or have it still."""
        return self.made is None or asyncio.get_running_loop().time() - self.made < ttl


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
        self._flights: dict[_Place, _Flight] = {}
        self._writing: set[_Place] = set()

    async def __call__(self, message: object, call_next: CallNext[Any, Any]) -> Any:
        if not is_request(type(message)):
            return await call_next(message)
        codec = self._codec(type(message))
        key = f"cache:{codec.name}:{key_text(self._key(message))}"
        place = (asyncio.get_running_loop(), key)
        while (others := self._flights.get(place)) is not None and others.is_fresh(self._ttl):
            await others.ended.wait()
            if others.body is not None and others.is_fresh(self._ttl):
                return codec.decode_response(others.body)
            if others.error is not None:
                raise _copied(others.error) from others.error
        flight = self._flights[place] = _Flight()
        try:
            if (found := await self._read(flight, key, codec)) is not None:
                return found.value
            value = await call_next(message)
            _give(flight, value)
        except Exception as error:
            flight.error = error
            raise
        finally:
            if flight.made is None:
                self._end(place, flight)
            flight.ended.set()
        if flight.made is not None and flight.body is not None:
            self._keep(place, flight, flight.body)
        return value

    async def _read(self, flight: _Flight, key: str, codec: Codec) -> Success[Any] | None:
        """Return the value in the store, if there is one, and give it to `flight`."""
        try:
            body = await self._store.get(key)
            found = None if body is None else Success(codec.decode_response(body))
        except CatgaError as error:
            logger.warning("the cache could not be read: %s", error, extra={"catga_error": str(error)})
            return None
        flight.body = body
        return found

    def _keep(self, place: _Place, flight: _Flight, body: bytes) -> None:
        """Put a value into the store. Nobody waits for that: it went well, and whoever waits can be cancelled."""
        if place in self._writing:  # since longer than `ttl`: an older value must not come after this one
            self._end(place, flight)
        elif len(self._writing) >= MAX_WRITES:
            _not_written(StoreError(f"{MAX_WRITES} values wait to be stored already"))
            self._end(place, flight)
        else:
            self._writing.add(place)
            begin(self._write(place[1], flight, body)).add_done_callback(lambda _: self._written(place, flight))

    async def _write(self, key: str, flight: _Flight, body: bytes) -> None:
        try:
            try:
                await self._store.put(key, body, self._ttl)
            except asyncio.CancelledError:  # the program ends; `asyncio.run` waits for what goes on all the same
                await self._store.put(key, body, self._ttl)
                raise
            if not flight.is_fresh(self._ttl):  # the store counts from now
                await self._store.discard(key, body)
        except Exception as error:  # noqa: BLE001 - a store of the user's: nobody is left to raise it to
            _not_written(error)

    def _written(self, place: _Place, flight: _Flight) -> None:
        self._writing.discard(place)
        self._end(place, flight)

    def _end(self, place: _Place, flight: _Flight) -> None:
        """Nobody may wait for it any more."""
        if self._flights.get(place) is flight:
            del self._flights[place]

    def _codec(self, cls: type) -> Codec:
        codec = self._codecs.get(cls)
        if codec is None:
            codec = self._codecs[cls] = Codec(cls)
        return codec


def _give(flight: _Flight, value: object) -> None:
    """Give a value that was made to `flight`, if it can be encoded."""
    try:
        flight.body = encode(value)
        flight.made = asyncio.get_running_loop().time()
    except CatgaError as error:
        _not_written(error)


def _not_written(error: Exception) -> None:
    logger.warning("the cache could not be written: %s", error, extra={"catga_error": str(error)})


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
