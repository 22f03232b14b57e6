"""Tries that are cut off and end in a way of their own, and replays whose store fails at their end."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from behavior_parts import Told, error_of, mediator

from catga import Mediator, Request, message
from catga.errors import StoreError
from catga.mediator.behaviors import DeadLetters, Idempotency, MemoryDeadLetters, MemoryStore, Retry, Timeout
from catga.testing import eventually


@dataclass(frozen=True)
class Pay(Request[int]):
    pass


@message(idempotent=True)
@dataclass(frozen=True)
class Count(Request[int]):
    pass


class Client:
    """An app whose handler turns its cancellation into a `ConnectionError`, as clients of databases do."""

    def __init__(self, *behaviors: Any) -> None:
        self.app, self.began = Mediator(), list[object]()
        for behavior in behaviors:
            self.app.behavior(behavior)
        for cls in (Pay, Count):
            self.app.handles(cls)(self._handle)

    async def _handle(self, request: Any) -> int:
        self.began.append(request)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ConnectionError("closed in mid-query") from None
        return 1


LIMITS: list[Callable[[], Any]] = [
    lambda: Timeout(0.01),
    lambda: Idempotency(key=lambda m: 1, lease=0.01),
]


@pytest.mark.parametrize("limit", LIMITS, ids=["Timeout", "lease"])
@pytest.mark.parametrize(("cls", "runs"), [(Pay, 1), (Count, 2)])
async def test_a_try_that_was_cut_off_took_too_long_whatever_it_raised(limit: Any, cls: type, runs: int) -> None:
    client = Client(Retry(2, base=0.0, on=Exception), limit())
    error = error_of(await client.app.send(cls()))
    assert (error.code, error.is_retryable) == ("timeout", cls is Count)
    assert len(client.began) == runs


async def test_a_try_that_was_cancelled_is_not_repeated_whatever_it_raised() -> None:
    client = Client(Retry(3, base=0.0, on=ConnectionError))
    sending = asyncio.ensure_future(client.app.send(Pay()))
    await eventually(lambda: client.began)
    sending.cancel()
    assert error_of(await sending).code == "handler_error"
    assert len(client.began) == 1
    assert error_of(await client.app.send(Pay(), timeout=0.01)).code == "timeout"
    assert len(client.began) == 2


# -- the end of a replay --------------------------------------------------------------------------------------


class Deaf(MemoryDeadLetters):
    """A store that fails at one thing."""

    def __init__(self, fails: str = "") -> None:
        super().__init__()
        self._fails = fails
        self.claims: Claims = Claims(fails)

    async def remove(self, letter_id: str) -> None:
        if self._fails == "remove":
            raise StoreError("out of reach")
        await super().remove(letter_id)


class Claims(MemoryStore):
    """Where letters are claimed: it fails to release one, or takes its time, if it is told to."""

    def __init__(self, fails: str = "") -> None:
        super().__init__()
        self._fails = fails
        self.claiming: asyncio.Event | None = None

    async def add(self, key: str, value: bytes, ttl: float) -> bool:
        added = await super().add(key, value, ttl)
        if self.claiming is not None:
            self.claiming.set()
            await asyncio.Event().wait()
        return added

    async def discard(self, key: str, value: bytes) -> None:
        if self._fails == "release":
            raise StoreError("out of reach")
        await super().discard(key, value)


class Shop:
    """An app with one letter in `store`, whose handler takes the event by now."""

    def __init__(self, store: Deaf) -> None:
        self.store, self.letters = store, DeadLetters(store)
        self.app = mediator(self.letters, self._run)
        self.is_up = False

    async def _run(self, number: int) -> int:
        if not self.is_up:
            raise KeyError(number)
        return number

    async def letter(self) -> str:
        await self.app.publish(Told())
        self.is_up = True
        return (await self.letters.list())[0].id


async def test_a_replay_that_went_well_did_though_its_claim_cannot_be_released(caplog: Any) -> None:
    shop = Shop(Deaf("release"))
    with caplog.at_level(logging.WARNING, "catga.behaviors"):
        assert (await shop.letters.replay(shop.app, await shop.letter())).is_success
    assert "could not be ended" in caplog.text
    assert await shop.letters.list() == []


async def test_a_letter_that_cannot_be_removed_says_that_its_handler_ran() -> None:
    shop = Shop(Deaf("remove"))
    error = error_of(await shop.letters.replay(shop.app, await shop.letter()))
    assert (error.code, error.is_retryable) == ("store", False)
    assert "took the event" in str(error)


async def test_a_replay_that_is_cancelled_while_it_claims_holds_no_claim() -> None:
    store = Deaf()
    shop = Shop(store)
    letter = await shop.letter()
    store.claims.claiming = asyncio.Event()
    replaying = asyncio.ensure_future(shop.letters.replay(shop.app, letter))
    await store.claims.claiming.wait()
    replaying.cancel()
    await asyncio.wait([replaying])
    assert replaying.cancelled()
    store.claims.claiming = None
    assert (await DeadLetters(store).list())[0].id == letter
    assert (await shop.letters.replay(shop.app, letter)).is_success


async def test_a_claim_that_a_client_sent_twice_is_freed_if_its_holder_cannot_be_read() -> None:
    class Twice(MemoryStore):
        """Its client sends `add` again, as the first reply was lost; then the store is out of reach."""

        is_up = False

        async def add(self, key: str, value: bytes, ttl: float) -> bool:
            added = await super().add(key, value, ttl)
            return added and self.is_up

        async def get(self, key: str) -> bytes | None:
            if not self.is_up:
                raise StoreError("out of reach")
            return await super().get(key)

    store = Twice()
    app = Mediator()
    app.behavior(Idempotency(store, key=lambda m: 1, wait=0.0))
    app.handles(Pay)(lambda request: 1)
    assert error_of(await app.send(Pay())).code == "store"
    store.is_up = True
    await eventually(lambda: not store._added)
    assert (await app.send(Pay())).unwrap() == 1
