"""Handlers of an event whose turn did not come, and letters whose publisher does not wait for them."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from catga import Event, Failure, Mediator, add_cluster, message
from catga.errors import CatgaTimeoutError, Execution
from catga.mediator import Router
from catga.mediator.behaviors import DeadLetter, DeadLetters, MemoryDeadLetters, Retry, dead_letters
from catga.testing import eventually


@message(timeout=0.5)
@dataclass(frozen=True)
class Paid(Event):
    order: int = 0


@dataclass(frozen=True)
class Patient(Event):
    pass


class Shop:
    """An application with a handler that hangs, between two that do not."""

    def __init__(self, *behaviors: Any) -> None:
        self.app = Mediator()
        self.runs: list[str] = []
        self.hangs = asyncio.Event()
        for behavior in behaviors:
            self.app.behavior(behavior)
        for handler in (self.book, self.hang, self.ship, self.mail):
            self.app.handles(Paid)(handler)

    async def book(self, event: Paid) -> None:
        self.runs.append("book")

    async def hang(self, event: Paid) -> None:
        self.hangs.set()
        await asyncio.Event().wait()

    async def ship(self, event: Paid) -> None:
        self.runs.append("ship")

    def mail(self, event: Paid) -> None:
        self.runs.append("mail")

    async def publish_and_give_up(self) -> None:
        await given_up(self.app.publish(Paid()), self.hangs.is_set)


async def given_up(publishing: Awaitable[Any], when: Callable[[], object]) -> None:
    """Cancel what publishes, once something is so."""
    task = asyncio.ensure_future(publishing)
    await eventually(when)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def kept(letters: DeadLetters) -> list[tuple[str, str]]:
    return [(letter.handler.rpartition(".")[2], letter.code) for letter in await letters.list()]


LEFT_OUT = [("hang", "cancelled"), ("mail", "not_reached"), ("ship", "not_reached")]


async def test_the_failure_of_the_own_node_names_the_handlers_that_were_not_reached() -> None:
    shop = Shop()
    async with add_cluster(shop.app, "memory://not-reached-local", node_id="a") as node:
        result = await node.publish(Paid())
    assert isinstance(result, Failure)
    assert isinstance(result.error, CatgaTimeoutError)
    assert [name.rpartition(".")[2] for name in result.error.details["not_reached"]] == ["ship", "mail"]
    assert shop.runs == ["book"]


async def test_of_several_services_the_failure_names_them_too() -> None:
    shop, other, url = Shop(), Mediator(), "memory://not-reached-services"
    other.handles(Paid)(lambda event: None)
    async with (
        add_cluster(shop.app, url, node_id="a", service="a") as node,
        add_cluster(other, url, node_id="b", service="b"),
    ):
        result = await node.publish(Paid())
    assert isinstance(result, Failure)
    assert len(result.error.details["not_reached"]) == 2
    assert result.error.details["services"]["b"] == {"ok": True}


async def test_a_node_that_stops_in_mid_event_names_the_handlers_that_were_not_reached() -> None:
    shop, url = Shop(), "memory://not-reached-stop"

    @shop.app.handler
    async def hang(event: Patient) -> None:
        await shop.hang(Paid())

    @shop.app.handler
    async def ship(event: Patient) -> None: ...

    node = add_cluster(shop.app, url, node_id="a", drain_timeout=0.01)
    async with add_cluster(Mediator(), url, node_id="b") as caller, node:
        publishing = asyncio.create_task(caller.publish(Patient()))
        await eventually(shop.hangs.is_set)
        await node.stop()
        result = await publishing
    assert isinstance(result, Failure)
    assert result.error.execution is Execution.MAYBE
    assert [name.rpartition(".")[2] for name in result.error.details["not_reached"]] == ["ship"]


async def test_every_handler_that_was_not_reached_leaves_a_letter_on_the_own_node_and_on_another() -> None:
    for node_id in ("own", "other"):
        letters = DeadLetters()
        shop, url = Shop(letters), f"memory://not-reached-{node_id}"
        async with (
            add_cluster(shop.app, url, node_id="own") as own,
            add_cluster(Mediator(), url, node_id="other") as other,
        ):
            assert not (await {"own": own, "other": other}[node_id].publish(Paid())).is_success
        assert sorted(await kept(letters)) == LEFT_OUT
        assert shop.runs == ["book"]


async def test_every_handler_that_was_not_reached_leaves_a_letter_in_one_process() -> None:
    letters = DeadLetters()
    shop = Shop(letters, Retry(2, base=0.001))
    await shop.publish_and_give_up()
    assert sorted(await kept(letters)) == LEFT_OUT


async def test_a_router_keeps_letters_of_its_own_handlers_that_were_not_reached() -> None:
    outer, inner = DeadLetters(), DeadLetters()
    router = Router()
    router.behavior(inner)

    @router.handler
    async def late(event: Paid) -> None: ...

    shop = Shop(outer)
    shop.app.include(router)
    await shop.publish_and_give_up()
    assert await kept(inner) == [("late", "not_reached")]
    assert ("late", "not_reached") in await kept(outer)


async def test_of_two_handlers_with_one_name_the_second_is_the_one_that_was_not_reached() -> None:
    letters, app, started = DeadLetters(), Mediator(), asyncio.Event()
    app.behavior(letters)
    plain = Mediator()
    for _ in range(2):

        async def hang(event: Paid) -> None:
            started.set()
            await asyncio.Event().wait()

        app.handles(Paid)(hang)
        plain.handles(Paid)(hang)
    await given_up(app.publish(Paid()), started.is_set)
    assert sorted((name[-2:], code) for name, code in await kept(letters)) == [
        ("#1", "cancelled"),
        ("#2", "not_reached"),
    ]
    async with add_cluster(plain, "memory://not-reached-twice", node_id="a") as node:
        result = await node.publish(Paid())
    assert isinstance(result, Failure)
    assert [name[-2:] for name in result.error.details["not_reached"]] == ["#2"]


async def test_a_replay_that_is_given_up_leaves_no_letters_of_other_handlers() -> None:
    letters = DeadLetters()
    shop = Shop(letters)
    await shop.publish_and_give_up()
    for letter in await letters.list():
        if letter.code == "not_reached":
            await letters.discard(letter.id)
    (letter,) = await letters.list()
    shop.hangs.clear()
    await given_up(letters.replay(shop.app, letter.id), shop.hangs.is_set)
    assert await kept(letters) == [("hang", "cancelled")]


async def test_a_behavior_that_fails_on_it_hides_no_cancellation(caplog: pytest.LogCaptureFixture) -> None:
    class Bad(DeadLetters):
        async def not_reached(self, message: object, handler: str) -> None:
            raise KeyError(handler)

    letters = DeadLetters()
    shop = Shop(Bad(), letters)
    await shop.publish_and_give_up()
    assert sorted(await kept(letters)) == LEFT_OUT
    assert "was not reached" in caplog.text


# -- letters whose publisher does not wait ----------------------------------------------------------------


class SlowStore(MemoryDeadLetters):
    """A store that takes its time, until told."""

    def __init__(self) -> None:
        super().__init__()
        self.writing = asyncio.Event()
        self.gate = asyncio.Event()

    async def put(self, letter: DeadLetter) -> None:
        self.writing.set()
        await self.gate.wait()
        await super().put(letter)

    async def remove(self, letter_id: str) -> None:
        self.writing.set()
        await self.gate.wait()
        await super().remove(letter_id)


def failing(store: MemoryDeadLetters) -> tuple[Mediator, DeadLetters]:
    app, letters = Mediator(), DeadLetters(store)
    app.behavior(letters)

    @app.handler
    async def fail(event: Paid) -> None:
        if not event.order:
            raise KeyError("for good")

    return app, letters


async def test_a_letter_is_written_though_its_publisher_gives_up_meanwhile() -> None:
    store = SlowStore()
    app, letters = failing(store)
    await given_up(app.publish(Paid()), store.writing.is_set)
    assert await letters.list() == []
    store.gate.set()

    async def is_kept() -> bool:
        return await kept(letters) == [("fail", "handler_error")]

    await eventually(is_kept)


async def test_a_node_stops_once_its_letters_are_written() -> None:
    store, url = SlowStore(), "memory://letters-at-stop"
    app, letters = failing(store)
    async with add_cluster(Mediator(), url, node_id="b") as caller:
        node = add_cluster(app, url, node_id="a", drain_timeout=0.1)
        await node.start()
        assert not (await caller.publish(Paid())).is_success
        assert store.writing.is_set()
        stopping = asyncio.create_task(node.stop())
        await eventually(lambda: len(caller.get_nodes()) == 1)
        assert not stopping.done()
        store.gate.set()
        await stopping
    assert await kept(letters) == [("fail", "handler_error")]


async def test_a_letter_that_was_replayed_is_removed_though_its_operator_gives_up_meanwhile() -> None:
    store = SlowStore()
    app, letters = failing(store)
    letter = DeadLetter(
        id="1",
        name=f"{Paid.__module__}.Paid",
        handler=f"{__name__}.failing.<locals>.fail",
        body=b"\x81\xa5order\x01",
        code="",
        error="",
        failed_at=0.0,
    )
    await MemoryDeadLetters.put(store, letter)
    await given_up(letters.replay(app, "1"), store.writing.is_set)
    assert len(await letters.list()) == 1
    store.gate.set()

    async def is_gone() -> bool:
        return await letters.list() == []

    await eventually(is_gone)


async def test_a_store_that_hangs_or_is_broken_holds_no_failure_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(MemoryDeadLetters):
        async def put(self, letter: DeadLetter) -> None:
            raise RuntimeError("a bug of the store")

    monkeypatch.setattr(dead_letters, "WRITE_TIMEOUT", 0.01)
    for store in (SlowStore(), Broken()):
        caplog.clear()
        app, _ = failing(store)
        result = await app.publish(Paid())
        assert isinstance(result, Failure)
        assert result.error.message == "KeyError: 'for good'"
        assert "could not be kept" in caplog.text


async def test_letters_that_are_being_written_are_bounded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(dead_letters, "MAX_WRITES", 1)
    store = SlowStore()
    app, letters = failing(store)
    await given_up(app.publish(Paid()), store.writing.is_set)
    assert isinstance(await app.publish(Paid()), Failure)
    assert "1 letters are being written" in caplog.text
    store.gate.set()

    async def is_kept() -> bool:
        return len(await letters.list()) == 1

    await eventually(is_kept)
    assert isinstance(await app.publish(Paid()), Failure)
    assert len(await letters.list()) == 2
