"""Requests that the broker routes: `catga.routing.Queue` on every backend."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from redis.asyncio import Redis

from catga import DistributedMediator, Failure, Mediator, Request, Success, message
from catga.abc import Observation, Sighting
from catga.errors import CatgaTimeoutError, Execution, NoNodeAvailableError, OverloadedError
from catga.routing import Queue
from catga.testing.contract import Bed
from catga.testing.servers import NatsServer, RedisServer
from catga.testing.waiting import eventually

BACKENDS = {"memory": "memory://queue", "nats": "nats_url", "redis": "redis_url"}


@message(name="queue.Job")
@dataclass(frozen=True)
class Job(Request[str]):
    number: int
    hold: bool = False


@message(name="queue.Safe", idempotent=True)
@dataclass(frozen=True)
class Safe(Request[str]):
    number: int


class Workshop:
    """Nodes that take jobs from a queue, and note them."""

    def __init__(self, bed: Bed) -> None:
        self.bed = bed
        self.done: list[tuple[str, int]] = []
        self.held: list[int] = []
        self.release = asyncio.Event()

    def app(self, node_id: str) -> Mediator:
        app = Mediator()

        @app.handler
        async def work(job: Job) -> str:
            if job.hold:
                self.held.append(job.number)
                await self.release.wait()
            self.done.append((node_id, job.number))
            return node_id

        @app.handler
        async def work_safely(job: Safe) -> str:
            self.held.append(job.number)
            if len(self.held) == 1:
                await self.release.wait()
            return node_id

        return app

    async def worker(self, node_id: str, **options: Any) -> DistributedMediator:
        return await self.bed.node(node_id, self.app(node_id), queues=True, **options)

    async def caller(self, node_id: str = "caller", **options: Any) -> DistributedMediator:
        return await self.bed.node(node_id, observe_only=True, routing=Queue(), **options)

    async def blind_caller(self, **options: Any) -> DistributedMediator:
        """A node that discovers nobody."""
        caller = self.bed.unstarted("caller", routing=Queue(), observe_only=True, **options)
        blind = caller._backend._replace(discovery=Nowhere())  # pyright: ignore[reportPrivateUsage]
        caller._backend = blind  # pyright: ignore[reportPrivateUsage]
        await caller.start()
        return caller


class Nowhere:
    """A `NodeDiscovery` that finds nobody and tells nobody."""

    async def register(self, node: Any) -> None: ...
    async def unregister(self, end: Any) -> None: ...
    async def heartbeat(self, node: Any) -> None: ...
    async def get_nodes(self) -> list[Observation]:
        return []

    async def watch(self, observe: Any, recall: Any) -> None: ...
    async def aclose(self) -> None: ...


@pytest.fixture(params=BACKENDS)
async def workshop(request: pytest.FixtureRequest) -> AsyncIterator[Workshop]:
    url = BACKENDS[request.param]
    async with Bed(request.getfixturevalue(url) if url.endswith("_url") else url) as bed:
        yield Workshop(bed)


async def test_each_request_runs_once_on_one_of_all_members_also_of_one_turn(workshop: Workshop) -> None:
    for node_id in "abc":
        await workshop.worker(node_id, service=f"service-{node_id}")  # one queue, whatever the services
    caller = await workshop.caller()
    results = await asyncio.gather(*(caller.send(Job(number)) for number in range(300)))
    ran = Counter(node_id for node_id, _ in workshop.done)
    assert sorted(number for _, number in workshop.done) == list(range(300))
    assert set(ran) == set("abc")
    assert min(ran.values()) > 50  # 100 on average: 6 standard deviations of a random draw
    for result in results:
        assert result.metadata.node_id == result.unwrap()
        assert result.metadata.attempts == 1


async def test_a_member_that_calls_may_be_drawn_itself(workshop: Workshop) -> None:
    a = await workshop.worker("a", routing=Queue())
    assert (await a.send(Job(1))).unwrap() == "a"


async def test_a_node_that_knows_no_member_reaches_the_queue(workshop: Workshop) -> None:
    await workshop.worker("a")
    await workshop.worker("b")
    caller = await workshop.blind_caller()
    try:
        assert caller.get_nodes() == []
        assert {(await caller.send(Job(number))).unwrap() for number in range(60)} == {"a", "b"}
        assert caller.get_nodes() == []
    finally:
        await caller.stop()


async def test_nobody_who_takes_from_the_queue_is_a_clear_error_soon(workshop: Workshop) -> None:
    await workshop.bed.node("a", workshop.app("a"))  # handles it, but takes no queue
    caller = await workshop.caller()
    results = await asyncio.gather(*(caller.send(Job(number)) for number in range(2000)))
    for result in results:
        assert isinstance(result, Failure)
        assert type(result.error) is NoNodeAvailableError
        assert result.error.execution is Execution.NO
        assert "queues=True" in str(result.error)
    assert workshop.done == []


async def test_a_member_that_leaves_loses_nothing(workshop: Workshop) -> None:
    await workshop.worker("a", max_queue=100_000)
    leaver = await workshop.worker("b", max_queue=100_000)
    caller = await workshop.caller()
    sends: list[asyncio.Task[Any]] = []
    leaving: asyncio.Task[None] | None = None
    while leaving is None or not leaving.done() or len(sends) < 2000:
        sends += [asyncio.create_task(caller.send(Job(len(sends) + n))) for n in range(10)]
        if len(sends) == 500:
            leaving = asyncio.create_task(leaver.stop())
        await asyncio.sleep(0)
    results = await asyncio.gather(*sends)
    assert [result for result in results if not isinstance(result, Success)] == []
    assert sorted(number for _, number in workshop.done) == list(range(len(sends)))
    assert {(await caller.send(Job(number))).unwrap() for number in range(20)} == {"a"}


async def test_a_drained_member_takes_no_more_from_the_queue(workshop: Workshop) -> None:
    a = await workshop.worker("a")
    await a.drain()
    caller = await workshop.caller()
    result = await caller.send(Job(1))
    assert isinstance(result, Failure)
    assert isinstance(result.error, NoNodeAvailableError)


async def test_a_crashed_member_is_not_drawn_again(workshop: Workshop) -> None:
    await workshop.worker("a")
    crashed = await workshop.worker("b")
    caller = await workshop.caller()
    await workshop.bed.crash(crashed)
    results = [await caller.send(Job(number)) for number in range(40)]
    assert {result.unwrap() for result in results} == {"a"}


async def test_a_full_member_refuses_and_another_is_drawn(workshop: Workshop) -> None:
    await workshop.worker("a", max_concurrency=1, max_queue=0)
    caller = await workshop.caller()
    holding = asyncio.create_task(caller.send(Job(0, hold=True)))
    await eventually(lambda: workshop.held)
    result = await caller.send(Job(1))
    assert isinstance(result, Failure)
    assert isinstance(result.error, OverloadedError)
    workshop.release.set()
    assert (await holding).is_success


async def test_a_lost_node_shows_at_the_deadline_only_and_nobody_is_blamed(workshop: Workshop) -> None:
    victim = await workshop.worker("a")
    caller = await workshop.caller(request_timeout=3.0)
    holding = asyncio.create_task(caller.send(Job(0, hold=True)))
    await eventually(lambda: workshop.held)
    await workshop.bed.crash(victim)
    result = await holding
    assert isinstance(result, Failure)
    assert isinstance(result.error, CatgaTimeoutError)
    assert result.error.execution is Execution.MAYBE
    assert "whoever took it" in str(result.error)


async def test_no_queue_is_ever_probed_or_taken_for_a_node(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    caller = await workshop.caller(request_timeout=2.0)
    node = caller._node  # pyright: ignore[reportPrivateUsage]
    assert node is not None
    membership = node.membership
    for name in ("unlistened", "silent"):
        monkeypatch.setattr(membership, name, lambda node_id, _: told.append(node_id))
    observe = membership.view.observe

    def seen(observation: Observation) -> bool:
        told.append(observation.node.node_id if isinstance(observation, Sighting) else observation.node_id)
        return observe(observation)

    monkeypatch.setattr(membership.view, "observe", seen)
    await caller.send(Job(1))  # nobody listens
    await workshop.worker("a")
    result = await caller.send(Job(2, hold=True))  # nobody answers
    assert isinstance(result, Failure)
    assert "" not in told
    assert "a" in told
    assert membership.view.buried("") is None


async def test_a_handler_that_is_added_later_has_a_queue_too(workshop: Workshop) -> None:
    worker = await workshop.bed.node("a", Mediator(), queues=True)

    async def work(job: Job) -> str:
        return "late"

    worker.handles(Job)(work)
    caller = await workshop.caller()
    assert (await caller.send(Job(1))).unwrap() == "late"


async def test_explain_says_that_the_broker_picks(workshop: Workshop) -> None:
    caller = await workshop.caller()
    explanation = caller.explain(Job(1))
    assert explanation.choice is None
    assert "broker" in str(explanation)


@pytest.mark.parametrize("server", [NatsServer, RedisServer])
async def test_queues_outlive_a_restart_of_the_broker(server: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    with server() as broker:
        async with Bed(broker.url) as bed:
            workshop = Workshop(bed)
            await workshop.worker("a")
            await workshop.worker("b")
            caller = await workshop.caller(request_timeout=20.0)
            lost = asyncio.create_task(caller.send(Safe(1)))
            await eventually(lambda: workshop.held)
            broker.kill()
            await eventually(lambda: caller.health == "degraded")
            broker.start()
            await eventually(lambda: caller.health == "healthy")
            workshop.release.set()
            result = await lost
            assert result.is_success
            assert result.metadata.attempts > 1  # it may run twice, so it was put into the queue again
            results = [await caller.send(Job(number)) for number in range(60)]
            assert {result.unwrap() for result in results} == {"a", "b"}
            assert sorted(number for _, number in workshop.done) == list(range(60))


async def test_a_redis_queue_that_was_deleted_is_there_again(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("catga.backends.redis.transport.SHARE_INTERVAL", 0.05)
    async with Bed(redis_url) as bed, Redis.from_url(redis_url) as client:
        workshop = Workshop(bed)
        await workshop.worker("a")
        caller = await workshop.caller()
        assert await client.delete(bed.subject("queue.queue=2EJob")) == 1
        assert (await caller.send(Job(1))).unwrap() == "a"
