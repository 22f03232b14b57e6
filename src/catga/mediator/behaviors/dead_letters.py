"""Events whose handlers failed for good: kept, listed, replayed."""

import asyncio
import bisect
import logging
import os
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol, runtime_checkable

import msgspec

from catga.abc import Behavior, CallNext
from catga.codec import Codec, encode
from catga.errors import CatgaError, HandlerNotFoundError, InProgressError, OverloadedError, StoreError
from catga.mediator.behaviors.matching import expect_store
from catga.mediator.behaviors.store import KeyValueStore, MemoryStore
from catga.mediator.carried import context
from catga.mediator.intercept import handling
from catga.mediator.message_context import MESSAGE_ID, current_message
from catga.mediator.pipeline import admitting, as_catga_error, in_order
from catga.mediator.router import Router
from catga.mediator.settling import settle
from catga.messages import is_event, wire_name
from catga.result import LOCAL, CatgaResult, Failure

logger = logging.getLogger("catga.behaviors")

NOT_REACHED = "not_reached"
WRITE_TIMEOUT = 10.0
"""Seconds that the write of a letter may take, whatever becomes of the event's publisher."""
CLAIM = 30.0
"""Seconds that the claim of a letter lasts if its process dies in the replay."""
MAX_WRITES = 10_000
"""Letters that are being written, at most: beyond it they are logged as not kept."""


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """One event that one handler could not take.

    Attributes:
        id: sorts by time.
        name: the event's wire name.
        handler: ``module.qualname`` of the handler that failed.
        body: the event, encoded.
        code, error: of the failure; ``cancelled`` if the handler was, ``not_reached`` if the event's deadline, or its
            publisher's cancellation, came before it began.
        failed_at: Unix time, by the clock of the node where it failed.
        attempts: how often the event came to this handler, replays included.
        message_id: with `MessageContext`.
        context: what came with the event by `catga.context`; a replay has it again.
    """

    id: str
    name: str
    handler: str
    body: bytes
    code: str
    error: str
    failed_at: float
    attempts: int = 1
    message_id: str = ""
    context: Mapping[str, str] = {}


class DeadLetterStore(Protocol):
    """Keeps letters by id. Every method returns in a bounded time, or raises `StoreError`."""

    async def put(self, letter: DeadLetter) -> None:
        """Store `letter`, over one of the same id."""
        ...

    async def get(self, letter_id: str) -> DeadLetter | None:
        """The letter of that id."""
        ...

    async def remove(self, letter_id: str) -> None:
        """Forget the letter, if it is there."""
        ...

    async def list(self, limit: int) -> "list[DeadLetter]":
        """The oldest letters, at most `limit`, the oldest first."""
        ...


@runtime_checkable
class Claimed(Protocol):
    """A `DeadLetterStore` that several nodes share. Who replays a letter claims its id there: nobody else does then."""

    claims: KeyValueStore


class MemoryDeadLetters:
    """A `DeadLetterStore` in a dictionary; when full, the oldest goes."""

    def __init__(self, *, max_letters: int = 10_000) -> None:
        self._letters: dict[str, DeadLetter] = {}
        self._ids: list[str] = []  # sorted
        self.claims: KeyValueStore = MemoryStore()
        self._max_letters = max_letters

    async def put(self, letter: DeadLetter) -> None:
        if letter.id not in self._letters:
            bisect.insort(self._ids, letter.id)
        self._letters[letter.id] = letter
        if len(self._ids) > self._max_letters:
            del self._letters[self._ids.pop(0)]

    async def get(self, letter_id: str) -> DeadLetter | None:
        return self._letters.get(letter_id)

    async def remove(self, letter_id: str) -> None:
        if self._letters.pop(letter_id, None) is not None:
            del self._ids[bisect.bisect_left(self._ids, letter_id)]

    async def list(self, limit: int) -> "list[DeadLetter]":
        return [self._letters[letter_id] for letter_id in self._ids[: max(limit, 0)]]


class _Replay(NamedTuple):
    letter: DeadLetter
    owner: "DeadLetters"


_replay: ContextVar[_Replay | None] = ContextVar("catga_replay", default=None)


class DeadLetters:
    """Keeps an event that a handler failed on, was cancelled on, or was not reached for, and passes the failure on.

    Install it first, so that retries are inside it: what fails here has failed for good. Requests pass through:
    their callers get the failure.
    """

    def __init__(self, store: DeadLetterStore | None = None) -> None:
        expect_store(store, "list", "MemoryDeadLetters() or RedisDeadLetters(client)")
        self._store = store or MemoryDeadLetters()
        self._writes = 0
        self._replayed: set[str] = set()  # ids of the letters that are being replayed by this process

    def bound_to(self, handler: str) -> Behavior:
        """A letter names the handler that failed: a replay runs no other."""

        async def step(message: object, call_next: CallNext[Any, Any]) -> Any:
            return await self._keep(message, call_next, handler)

        return step

    async def __call__(self, message: object, call_next: CallNext[Any, Any]) -> Any:
        return await self._keep(message, call_next, "")

    async def not_reached(self, message: object, handler: str) -> None:
        """Keep an event that was cancelled before this handler's turn."""
        if _replay.get() is None:  # else the letter is there
            await self._put(message, handler, NOT_REACHED, "the event was cancelled before this handler's turn", None)

    async def list(self, limit: int = 100) -> "list[DeadLetter]":
        """The oldest letters, the oldest first."""
        return await self._store.list(limit)

    async def discard(self, letter_id: str) -> None:
        """Forget a letter."""
        await self._store.remove(letter_id)

    async def replay(self, router: Router, letter_id: str) -> CatgaResult[None]:
        """Run the handler that failed once more, in this process, inside the behaviors around it, and no other
        handler. If it succeeds the letter is removed, else it is kept, with one more attempt.

        Args:
            router: the mediator that has the handler.

        Failures: `HandlerNotFoundError` if `router` has it no more; `InProgressError` while the letter is being
        replayed, here or on a node that shares the store; `StoreError`; the failure of the handler.
        """
        if letter_id in self._replayed:
            return Failure(_in_progress(letter_id))
        self._replayed.add(letter_id)
        try:
            async with _claimed(self._store, letter_id):
                return await self._replay(router, letter_id)
        except CatgaError as error:
            return Failure(error)
        finally:
            self._replayed.discard(letter_id)

    async def _replay(self, router: Router, letter_id: str) -> CatgaResult[None]:
        letter = await self._store.get(letter_id)
        if letter is None:
            return Failure(CatgaError(f"no dead letter {letter_id!r}"))
        cls = router.registry.names.get(letter.name)
        calls = None if cls is None else router.registry.event_calls(cls)
        if cls is None or calls is None:
            return Failure(HandlerNotFoundError(f"no handler for {letter.name}"))
        event = Codec(cls).decode(letter.body)
        path = calls.path(self, letter.handler)
        if path is None:
            return Failure(HandlerNotFoundError(f"{letter.name} has no handler {letter.handler} any more"))
        token = _replay.set(_Replay(letter, self))
        try:
            run = handling(router.registry.interceptors, admitting(path, in_order(path, LOCAL), LOCAL), LOCAL)
            with context(**letter.context):
                return await run(event, {MESSAGE_ID: letter.message_id} if letter.message_id else {})
        finally:
            _replay.reset(token)

    async def _keep(self, message: object, call_next: CallNext[Any, Any], handler: str) -> Any:
        if not is_event(type(message)):
            return await call_next(message)
        replay = _replay.get()
        if replay is not None and replay.owner is not self:  # who keeps the letter is further inside
            return await call_next(message)
        token = _replay.set(None)  # what the handler itself publishes is no replay
        try:
            value = await call_next(message)
        except GeneratorExit:  # nothing may be awaited any more
            raise
        except BaseException as error:
            await self._put(message, handler, *_reason(error), replay)
            raise
        finally:
            _replay.reset(token)
        if replay is not None:
            await settle(self._taken(replay.letter))
        return value

    async def _taken(self, letter: DeadLetter) -> None:
        """Remove the letter of a handler that has taken its event now."""
        try:
            await self._store.remove(letter.id)
        except CatgaError as error:
            extra = {"catga_letter": letter.id, "catga_error": str(error)}  # the replay may have been cancelled
            logger.exception(
                "the letter of a handler that took its event could not be removed: discard it", extra=extra
            )
            kept = StoreError(f"{letter.handler} took the event, but its letter is still there: discard it: {error}")
            kept.is_retryable = False  # it would run again
            raise kept from error

    async def _put(self, message: object, handler: str, code: str, error: str, replay: _Replay | None) -> None:
        try:
            letter = _letter(message, handler, code, error, replay)
            if self._writes >= MAX_WRITES:
                raise OverloadedError(f"{self._writes} letters are being written")
        except CatgaError as reason:
            _not_kept(message, handler, reason)
        else:
            self._writes += 1
            await settle(self._write(letter, message, is_new=replay is None))

    async def _write(self, letter: DeadLetter, message: object, *, is_new: bool) -> None:
        try:
            async with asyncio.timeout(WRITE_TIMEOUT):
                if is_new or await self._store.get(letter.id) is not None:  # else somebody discarded it meanwhile
                    await self._store.put(letter)
        except Exception as reason:  # noqa: BLE001 - a store of the user's: nobody may be left to raise it to
            _not_kept(message, letter.handler, reason)
        finally:
            self._writes -= 1


@asynccontextmanager
async def _claimed(store: DeadLetterStore, letter_id: str) -> AsyncGenerator[None]:
    """Hold a letter for one replay, where the store can, and renew the claim as long as it lasts.

    Raises:
        InProgressError: another one has it.
    """
    if not isinstance(store, Claimed):
        yield
        return
    claims, owner = store.claims, os.urandom(16)
    beat: asyncio.Future[None] | None = None
    try:  # the claim may be there, also if it was cancelled or failed
        if not await claims.add(letter_id, owner, CLAIM):
            raise _in_progress(letter_id)
        beat = asyncio.ensure_future(_renew(claims, letter_id, owner))
        yield
    finally:
        await settle(_release(claims, letter_id, owner, beat))


async def _renew(claims: KeyValueStore, letter_id: str, owner: bytes) -> None:
    while True:
        await asyncio.sleep(CLAIM / 3)
        with suppress(Exception):  # another try before the claim ends
            if await claims.get(letter_id) == owner:
                await claims.put(letter_id, owner, CLAIM)


async def _release(claims: KeyValueStore, letter_id: str, owner: bytes, beat: "asyncio.Future[None] | None") -> None:
    if beat is not None:
        beat.cancel()
        await asyncio.wait([beat])  # it may be renewing the claim
    try:
        await claims.discard(letter_id, owner)
    except CatgaError as error:
        text = "the claim of a letter could not be ended, and ends by itself: %s"
        logger.warning(text, error, extra={"catga_letter": letter_id, "catga_error": str(error)})


def _in_progress(letter_id: str) -> InProgressError:
    return InProgressError(f"the dead letter {letter_id!r} is being replayed")


def _not_kept(message: object, handler: str, reason: Exception) -> None:
    text = str(reason) or type(reason).__name__
    extra = {"catga_message": wire_name(type(message)), "catga_handler": handler, "catga_error": text}
    logger.error("an event that failed could not be kept", exc_info=reason, extra=extra)


def _reason(error: BaseException) -> tuple[str, str]:
    """The code and the text of what a handler ended with."""
    if isinstance(error, asyncio.CancelledError):
        return "cancelled", type(error).__name__
    failure = as_catga_error(error)
    return failure.code, str(failure)


def _letter(message: object, handler: str, code: str, error: str, replay: _Replay | None) -> DeadLetter:
    if replay is not None:
        return msgspec.structs.replace(
            replay.letter, code=code, error=error, failed_at=time.time(), attempts=replay.letter.attempts + 1
        )
    info = current_message()
    return DeadLetter(
        id=f"{time.time_ns():020d}-{os.urandom(4).hex()}",
        name=wire_name(type(message)),
        handler=handler,
        body=encode(message),
        code=code,
        error=error,
        failed_at=time.time(),
        message_id=info.message_id,
        context=info.context,
    )
