"""Idempotency where it hurts: the store answers late or never, the caller leaves, the message goes to many nodes."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from catga import Event, Mediator, Request, add_cluster, message
from catga.errors import CatgaTimeoutError, InvalidMessageError, StoreError
from catga.mediator import MessageContext, current_message
from catga.mediator.behaviors import Idempotency, MemoryStore, Timeout
from catga.mediator.behaviors.store import key_text
from catga.testing import eventually
from catga.testing.cluster import memory_cluster


@dataclass(frozen=True)
class Ask(Request[int]):
    number: Any = 0


@dataclass(frozen=True)
class AskName(Request[str]):
    pass


@message(idempotent=True)
@dataclass(frozen=True)
class Charge(Request[str]):
    pass


@dataclass(frozen=True)
class Told(Event):
    number: int = 0


class SlowStore(MemoryStore):
    """One far away: it does as it is told at once, and answers when `replies` is set."""

    def __init__(self, *slow: str, **options: Any) -> None:
        super().__init__(**options)
        self.replies = asyncio.Event()
        self.waiting: list[str] = []
        self._slow = slow

    async def add(self, key: str, value: bytes, ttl: float) -> bool:
        added = await super().add(key, value, ttl)
        await self._reply("add")
        return added

    async def put(self, key: str, value: bytes, ttl: float) -> None:
        await self._reply("put")
        await super().put(key, value, ttl)

    async def _reply(self, method: str) -> None:
        if method in self._slow:
            self.waiting.append(method)
            await self.replies.wait()


@dataclass
class Service:
    """An app whose handlers count their runs."""

    behavior: Any
    answer: Any = 1
    runs: list[Any] = field(default_factory=list[Any])

    def __post_init__(self) -> None:
        self.app = Mediator()
        self.app.behavior(self.behavior)
        self.app.handles(Ask)(self._run)
        self.app.handles(Told)(self._run)

    async def _run(self, message: Any) -> Any:
        self.runs.append(message.number)
        return self.answer


def error_of(result: Any) -> Any:
    assert not result.is_success
    return result.error


async def cancelled(call: Awaitable[Any], when: Callable[[], object]) -> None:
    task = asyncio.ensure_future(call)
    await eventually(when)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# -- one message, many nodes ----------------------------------------------------------------------------


def node_of(name: str, store: MemoryStore, ran: list[str], key: Callable[[Any], object] | None = None) -> Mediator:
    app = Mediator()
    app.use(MessageContext())
    app.behavior(Idempotency(store, key=key))

    @app.handler
    async def told(event: Told) -> None:
        ran.append(name)

    async def run(request: object) -> str:
        ran.append(name)
        return name

    app.handles(AskName)(run)
    app.handles(Charge)(run)
    return app


async def test_what_goes_to_every_node_runs_on_every_node_though_they_share_a_store() -> None:
    store, ran = MemoryStore(), list[str]()
    names = ["a", "b", "c"]
    async with memory_cluster(*(node_of(name, store, ran) for name in names)) as nodes:
        assert len((await nodes[0].broadcast(Told())).acknowledged) == 3
        assert sorted(ran) == names
        assert sorted((await nodes[0].send_to_all(AskName())).values.values()) == names


async def test_each_service_runs_an_event_though_they_share_handlers_and_store() -> None:
    store, ran = MemoryStore(), list[str]()
    async with AsyncExitStack() as stack:
        nodes = [
            add_cluster(node_of(name, store, ran), "memory://shared-store", node_id=name, service=name)
            for name in ("billing", "email")
        ]
        for node in nodes:
            await stack.enter_async_context(node)
        await eventually(lambda: all(len(node.get_nodes()) == 2 for node in nodes))
        assert (await nodes[0].publish(Told())).is_success
    assert sorted(ran) == ["billing", "email"]


async def test_a_node_that_finds_a_broadcast_taken_by_another_does_not_acknowledge_it() -> None:
    store, ran = MemoryStore(), list[str]()
    apps = [node_of(name, store, ran, key=lambda m: 1) for name in ("a", "b", "c")]
    async with memory_cluster(*apps) as nodes:
        sent = await nodes[0].broadcast(Told())
        assert (len(sent.acknowledged), len(sent.failed)) == (1, 2)
        assert all("its own store" in str(error) for error in sent.failed.values())
        assert not (await nodes[0].broadcast(Told())).failed  # another message, so a duplicate on every node
        assert len(ran) == 1
        gathered = await nodes[0].send_to_all(AskName())
        assert list(gathered.values.values()) == ran[1:]


async def test_a_repeat_of_an_idempotent_request_on_another_node_runs_nothing() -> None:
    store, ran = MemoryStore(), list[str]()

    class Repeated(MessageContext):
        """All that is sent is one message, as with failover."""

        async def sending(self, message: Any, headers: dict[str, str], forward: Any) -> Any:
            headers["catga-message-id"] = "one"
            return await forward(message, headers)

    caller = Mediator()
    caller.use(Repeated())
    async with memory_cluster(caller, node_of("a", store, ran), node_of("b", store, ran)) as (sender, a, b):
        for request, answers in ((Charge(), ["a", "a"]), (AskName(), ["a", "b"])):
            results = [await sender.send_to_node(request, node.node_id) for node in (a, b)]
            assert [result.unwrap() for result in results] == answers


async def test_a_handler_can_read_on_which_node_it_runs() -> None:
    app = Mediator()
    app.use(MessageContext())

    @app.handler
    def name(request: AskName) -> str:
        return current_message().node_id

    assert (await app.send(AskName())).unwrap() == ""
    async with memory_cluster(app, Mediator()) as (worker, _):
        assert (await worker.send(AskName())).unwrap() == worker.node_id


# -- keys -----------------------------------------------------------------------------------------------


async def test_a_key_of_none_is_refused() -> None:
    service = Service(Idempotency(key=lambda m: None))
    assert isinstance(error_of(await service.app.send(Ask())), InvalidMessageError)
    assert service.runs == []


# -- the store answers late, or never -------------------------------------------------------------------


async def test_a_claim_whose_reply_was_lost_blocks_nobody() -> None:
    class Lossy(MemoryStore):
        async def add(self, key: str, value: bytes, ttl: float) -> bool:
            await super().add(key, value, ttl)
            if lost:
                raise lost.pop()
            return True

    lost = [StoreError("no reply in time")]
    service = Service(Idempotency(Lossy(), key=lambda m: m.number))
    assert isinstance(error_of(await service.app.send(Ask())), StoreError)
    assert service.runs == []
    assert (await service.app.send(Ask())).unwrap() == 1


async def test_a_claim_that_the_client_sent_twice_is_its_own() -> None:
    class Insistent(MemoryStore):
        async def add(self, key: str, value: bytes, ttl: float) -> bool:
            await super().add(key, value, ttl)
            return await super().add(key, value, ttl)

    service = Service(Idempotency(Insistent(), key=lambda m: m.number, wait=0.0))
    assert [(await service.app.send(Ask())).unwrap() for _ in range(2)] == [1, 1]
    assert service.runs == [0]


async def test_who_is_cancelled_while_it_claims_blocks_nobody() -> None:
    store = SlowStore("add")
    service = Service(Idempotency(store, key=lambda m: m.number))
    await cancelled(service.app.send(Ask()), lambda: store.waiting)
    store.replies.set()
    assert (await service.app.send(Ask())).unwrap() == 1
    assert service.runs == [0]


async def test_who_is_cancelled_while_its_value_is_stored_stores_it() -> None:
    store = SlowStore("put")
    service = Service(Idempotency(store, key=lambda m: m.number))
    await cancelled(service.app.send(Ask()), lambda: store.waiting)
    store.replies.set()
    assert (await service.app.send(Ask())).unwrap() == 1
    assert service.runs == [0]


async def test_a_timeout_outside_does_not_lose_the_value() -> None:
    store = SlowStore("put")
    service = Service(Idempotency(store, key=lambda m: m.number))
    outer = Mediator()
    outer.behavior(Timeout(0.02))
    outer.include(service.app)
    assert isinstance(error_of(await outer.send(Ask())), CatgaTimeoutError)
    store.replies.set()
    await eventually(lambda: _is_known(service))
    assert service.runs == [0]


async def _is_known(service: Service) -> bool:
    return (await service.app.send(Ask())).is_success


async def test_a_lease_counts_from_before_the_store_knows_of_it() -> None:
    async def a_few_turns(number: int) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    store = SlowStore("add")
    app = Mediator()
    app.behavior(Idempotency(store, key=lambda m: m.number, lease=0.02))

    @app.handler
    async def told(event: Told) -> None:
        await a_few_turns(event.number)

    loop = asyncio.get_running_loop()
    publish = asyncio.ensure_future(app.publish(Told()))
    await eventually(lambda: store.waiting)
    over = loop.time() + 0.02
    await eventually(lambda: loop.time() > over)
    store.replies.set()
    assert isinstance(error_of(await publish), CatgaTimeoutError)


async def test_a_cancelled_run_may_take_a_moment_to_end_before_another_starts() -> None:
    running, most = 0, 0

    async def slow_to_end(number: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)
            running -= 1

    app = Mediator()
    app.behavior(Idempotency(key=lambda m: m.number, lease=0.02))

    @app.handler
    async def told(event: Told) -> None:
        await slow_to_end(event.number)

    await asyncio.gather(*(app.publish(Told()) for _ in range(3)))
    assert most == 1


async def test_what_else_is_found_under_a_key_is_an_error_of_the_store() -> None:
    store = MemoryStore()
    service = Service(Idempotency(store, key=lambda m: m.number))
    await store.put(f"idempotency:{Ask.__module__}.Ask:{key_text(0)}", b"\1\xff", 60.0)
    assert isinstance(error_of(await service.app.send(Ask())), StoreError)


# -- values ---------------------------------------------------------------------------------------------


async def test_a_value_that_cannot_be_kept_still_means_that_it_ran() -> None:
    service = Service(Idempotency(key=lambda m: m.number), answer=object())
    assert (await service.app.send(Ask())).unwrap() is service.answer
    error = error_of(await service.app.send(Ask()))
    assert isinstance(error, InvalidMessageError)
    assert "ran before" in str(error)
    assert service.runs == [0]


async def test_what_an_events_handler_returns_is_nobodys_business() -> None:
    for answer in (5, object()):
        service = Service(Idempotency(key=lambda m: m.number), answer=answer)
        assert [(await service.app.publish(Told())).is_success for _ in range(2)] == [True, True]
        assert service.runs == [0]
