"""One event to several services: what its publisher is told, and which services are waited for."""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Any

import pytest

from catga import CatgaError, DistributedMediator, Event, Failure, Mediator, Request, Success, add_cluster, message
from catga.cluster.delivery import MAX_WAITING
from catga.cluster.table import Pool, RoutingTable
from catga.errors import (
    CatgaTimeoutError,
    Execution,
    HandlerError,
    MaybeExecutedError,
    NoNodeAvailableError,
    OverloadedError,
)
from catga.result import CatgaResult, joint_failure
from catga.routing import Candidates
from catga.testing import eventually
from catga.testing.contract import Bed

URL = "memory://publish-services"
SOON = 1.0
"""Seconds until the deadline of an event that is to fail."""


@message(timeout=30.0)
@dataclass(frozen=True)
class Paid(Event):
    order: int


@message(timeout=SOON)
@dataclass(frozen=True)
class Hurried(Event):
    order: int


@dataclass(frozen=True)
class Question(Request[int]):
    text: str = ""


@message(timeout=60.0)
@dataclass(frozen=True)
class Occupy(Request[None]):
    """Runs until the test ends."""


class SoldOut(CatgaError):
    code = "publish.sold_out"


class NeverMade(CatgaError):
    code = "publish.never_made"

    def __new__(cls, *arguments: Any) -> "NeverMade":
        if arguments:
            raise TypeError("made without arguments")
        return super().__new__(cls)


class World:
    """A publisher, and services that are started and stopped."""

    def __init__(self) -> None:
        self.stack = AsyncExitStack()
        self.runs: list[str] = []
        self.release = asyncio.Event()
        """Ends every `Occupy`."""
        self.occupied = asyncio.Event()

    async def start(
        self, service: str, handle: Callable[[], Awaitable[None]] | None = None, **settings: Any
    ) -> DistributedMediator:
        app = Mediator()

        @app.handler
        async def paid(event: Paid) -> None:
            self.runs.append(service)
            if handle is not None:
                await handle()

        @app.handler
        async def hurried(event: Hurried) -> None:
            await paid(Paid(event.order))

        @app.handler
        async def question(request: Question) -> int:
            return 1

        @app.handler
        async def occupy(request: Occupy) -> None:
            self.occupied.set()
            await self.release.wait()

        return await self.join(app, service, service=service, **settings)

    async def fill(self, service: str) -> None:
        """Start a service whose one place is taken: it refuses what comes."""
        node = await self.start(service, max_concurrency=1, max_queue=0)
        occupying = asyncio.create_task(node.send_to_node(Occupy(), service))
        self.stack.push_async_callback(asyncio.wait, [occupying])
        self.stack.callback(self.release.set)
        await eventually(self.occupied.is_set)
        self.occupied.clear()

    async def join(self, app: Mediator, node_id: str, **settings: Any) -> DistributedMediator:
        return await self.stack.enter_async_context(add_cluster(app, URL, node_id=node_id, **settings))


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    async with world.stack:
        yield world


@pytest.fixture
async def publisher(world: World) -> DistributedMediator:
    return await world.join(Mediator(), "publisher", service="publisher")


def failing(error: CatgaError) -> Callable[[], Awaitable[None]]:
    async def handle() -> None:
        raise error

    return handle


def error_of(result: CatgaResult[Any]) -> CatgaError:
    assert isinstance(result, Failure)
    return result.error


async def unwrapped(sending: Awaitable[CatgaResult[int]]) -> Any:
    return (await sending).unwrap()


# -- what the publisher is told ---------------------------------------------------------------------------


async def test_a_service_that_refused_is_no_failure_that_says_no_while_another_ran_it(
    world: World, publisher: DistributedMediator
) -> None:
    await world.fill("audit")
    await world.start("billing")
    error = error_of(await publisher.publish(Paid(1)))
    assert (type(error), error.execution, error.is_retryable) == (OverloadedError, Execution.MAYBE, False)
    assert error.message.startswith("1 of 2 services failed: audit: ")
    audit = error.details["services"]["audit"]
    assert (audit["code"], audit["execution"]) == ("overloaded", "no")
    assert audit["message"] in error.message
    assert error.details["services"]["billing"] == {"ok": True}
    assert world.runs == ["billing"]


async def test_no_is_said_when_no_service_ran_it(world: World, publisher: DistributedMediator) -> None:
    for service in ("audit", "billing"):
        await world.fill(service)
    error = error_of(await publisher.publish(Paid(1)))
    assert (type(error), error.execution, error.is_retryable) == (OverloadedError, Execution.NO, True)
    assert world.runs == []


async def test_services_that_all_answered_are_answered(world: World, publisher: DistributedMediator) -> None:
    await world.start("audit", failing(SoldOut("no tea", details={"sku": "tea"})))
    await world.start("billing")
    error = error_of(await publisher.publish(Paid(1)))
    assert (type(error), error.execution) == (SoldOut, Execution.ANSWERED)
    assert error.details["sku"] == "tea"
    assert list(error.details["services"]) == ["audit", "billing"]


async def test_the_failure_of_a_lone_service_is_passed_on_as_it_is(
    world: World, publisher: DistributedMediator
) -> None:
    await world.start("audit", failing(SoldOut("no tea", details={"sku": "tea"})))
    error = error_of(await publisher.publish(Paid(1)))
    assert (type(error), error.message, error.details) == (SoldOut, "no tea", {"sku": "tea"})


OK, NOT, PERHAPS = Success(None), OverloadedError("full"), MaybeExecutedError("lost")
RAISED, LATE = HandlerError("KeyError: x"), CatgaTimeoutError("late")


@pytest.mark.parametrize(
    ("results", "cls", "execution"),
    [
        ((NOT, NOT), OverloadedError, Execution.NO),
        ((NOT, NoNodeAvailableError("none")), NoNodeAvailableError, Execution.NO),
        ((NOT, OK), OverloadedError, Execution.MAYBE),
        ((NOT, RAISED), MaybeExecutedError, Execution.MAYBE),
        ((NOT, PERHAPS), MaybeExecutedError, Execution.MAYBE),
        ((LATE, OK), CatgaTimeoutError, Execution.MAYBE),
        ((LATE, RAISED), MaybeExecutedError, Execution.MAYBE),
        ((RAISED, OK), HandlerError, Execution.ANSWERED),
        ((RAISED, SoldOut("none")), HandlerError, Execution.ANSWERED),
        ((NeverMade(), OK), CatgaError, Execution.ANSWERED),
    ],
)
def test_the_execution_of_several_is_no_only_if_each_is(
    results: tuple[Any, ...], cls: type[CatgaError], execution: Execution
) -> None:
    several = [each if isinstance(each, Success) else Failure(each) for each in results]
    for order in (several, several[::-1]):
        error = joint_failure(order, "text", {}).error
        assert (type(error), error.execution) == (cls, execution)
        assert error.is_retryable == all(isinstance(r, Failure) and r.error.is_retryable for r in several)
        assert error not in results


def test_errors_that_are_joined_stay_as_they_were() -> None:
    full, lost = OverloadedError("full"), NoNodeAvailableError("none", details={"a": 1})
    joint_failure([Failure(full), Success(None), Failure(lost)], "text", {"b": 2})
    joint_failure([Failure(lost), Success(None)], "text", {"b": 2})
    for error, text, details in ((full, "full", {}), (lost, "none", {"a": 1})):
        assert (error.args, error.details, error.execution) == ((text,), details, Execution.NO)
        assert error.is_retryable


async def test_a_batch_says_no_only_if_none_of_its_events_ran(world: World, publisher: DistributedMediator) -> None:
    await world.fill("audit")

    @dataclass(frozen=True)
    class Other(Event):
        pass

    error = error_of(await publisher.publish_batch([Paid(1), Paid(2)]))
    assert (error.execution, list(error.details["failed"])) == (Execution.NO, ["0", "1"])
    error = error_of(await publisher.publish_batch([Other(), Paid(2)]))
    assert (error.execution, list(error.details["failed"])) == (Execution.MAYBE, ["1"])


# -- who is waited for ------------------------------------------------------------------------------------


async def test_a_service_that_is_being_restarted_gets_the_event_once_it_is_back(
    world: World, publisher: DistributedMediator
) -> None:
    await world.start("audit")
    billing = await world.start("billing")
    await billing.stop()
    await eventually(lambda: len(publisher.get_nodes()) == 2)
    publishing = asyncio.create_task(publisher.publish(Paid(1)))
    await eventually(lambda: world.runs == ["audit"])
    assert not publishing.done()
    await world.start("billing")
    assert (await publishing).is_success
    assert world.runs == ["audit", "billing"]


async def test_a_service_whose_nodes_all_drain_is_waited_for(world: World, publisher: DistributedMediator) -> None:
    billing = await world.start("billing")
    await billing.drain()
    await eventually(lambda: [node.state.value for node in publisher.get_nodes()] == ["draining", "alive"])
    publishing = asyncio.create_task(publisher.publish(Paid(1)))
    await billing.stop()
    await world.start("billing")
    assert (await publishing).is_success
    assert world.runs == ["billing"]


async def test_a_service_that_does_not_come_back_in_time_is_a_no(world: World, publisher: DistributedMediator) -> None:
    await (await world.start("billing")).stop()
    await eventually(lambda: len(publisher.get_nodes()) == 1)
    error = error_of(await publisher.publish(Hurried(1)))
    assert (type(error), error.execution, error.is_retryable) == (NoNodeAvailableError, Execution.NO, True)
    await world.start("audit")
    error = error_of(await publisher.publish(Hurried(1)))
    assert (type(error), error.execution, error.is_retryable) == (NoNodeAvailableError, Execution.MAYBE, False)
    assert error.details["services"]["audit"] == {"ok": True}
    assert error.details["services"]["billing"]["execution"] == "no"
    assert world.runs == ["audit"]


async def test_so_many_events_wait_for_a_service_and_those_beyond_are_a_no_at_once(
    world: World, publisher: DistributedMediator
) -> None:
    await (await world.start("billing")).stop()
    await eventually(lambda: len(publisher.get_nodes()) == 1)
    waiting = [asyncio.create_task(publisher.publish(Paid(number))) for number in range(MAX_WAITING)]
    await asyncio.sleep(0)
    for number in range(3):
        error = error_of(await publisher.publish(Paid(MAX_WAITING + number)))
        assert (type(error), error.execution, error.is_retryable) == (NoNodeAvailableError, Execution.NO, True)
    assert not any(publishing.done() for publishing in waiting)
    await world.start("billing", max_queue=MAX_WAITING)
    assert all(result.is_success for result in await asyncio.gather(*waiting))
    assert world.runs == ["billing"] * MAX_WAITING


async def test_events_that_waited_for_a_small_node_take_turns_there(
    world: World, publisher: DistributedMediator
) -> None:
    await (await world.start("billing")).stop()
    await eventually(lambda: len(publisher.get_nodes()) == 1)
    waiting = [asyncio.create_task(publisher.publish(Paid(number))) for number in range(20)]
    await asyncio.sleep(0)
    await world.start("billing", lambda: asyncio.sleep(0.001), max_concurrency=2, max_queue=2)
    assert all(result.is_success for result in await asyncio.gather(*waiting))
    assert world.runs == ["billing"] * 20


async def test_an_event_that_nobody_ever_handled_succeeds_at_once(world: World, publisher: DistributedMediator) -> None:
    await (await world.join(Mediator(), "other")).stop()
    await eventually(lambda: len(publisher.get_nodes()) == 1)
    assert (await publisher.publish(Paid(1))).is_success


async def test_a_node_that_drains_does_not_wait_for_its_own_service_to_come_back(world: World) -> None:
    billing = await world.start("billing")
    await billing.drain()
    error = error_of(await billing.publish(Paid(1)))
    assert (type(error), error.execution) == (NoNodeAvailableError, Execution.NO)


async def test_a_publication_that_waits_ends_with_its_node(world: World, publisher: DistributedMediator) -> None:
    await (await world.start("billing")).stop()
    await eventually(lambda: len(publisher.get_nodes()) == 1)
    publishing = asyncio.create_task(publisher.publish(Paid(1)))
    await asyncio.sleep(0)
    assert not publishing.done()
    await publisher.stop()
    assert error_of(await publishing).execution is Execution.NO


async def test_a_publication_that_waits_looks_again_only_after_a_change(
    world: World, publisher: DistributedMediator, monkeypatch: pytest.MonkeyPatch
) -> None:
    await (await world.start("billing")).stop()
    await eventually(lambda: len(publisher.get_nodes()) == 1)
    changes, watcher = 0, publisher.watch()
    looks, pool_of = 0, RoutingTable.pool_of

    def counted(self: RoutingTable, service: str, name: str) -> Pool:
        pool = pool_of(self, service, name)

        def nodes() -> Candidates:
            nonlocal looks
            looks += 1
            return pool()

        return nodes

    monkeypatch.setattr(RoutingTable, "pool_of", counted)
    assert error_of(await publisher.publish(Hurried(1))).execution is Execution.NO
    with suppress(TimeoutError):
        async with asyncio.timeout(0):
            async for _ in watcher:
                changes += 1
    assert looks <= 1 + changes  # the first of which is the snapshot


async def test_a_publication_that_waits_ends_when_its_node_begins_to_drain(
    world: World, publisher: DistributedMediator
) -> None:
    await (await world.start("billing")).stop()
    await eventually(lambda: len(publisher.get_nodes()) == 1)
    publishing = asyncio.create_task(publisher.publish(Paid(1)))
    await asyncio.sleep(0)
    await publisher.drain()
    assert error_of(await asyncio.wait_for(publishing, 20.0)).execution is Execution.NO


@pytest.mark.parametrize("verb", ["send", "send_to_all"])
async def test_a_request_whose_last_handler_left_unasked_says_that_none_is_available(
    world: World, publisher: DistributedMediator, verb: str
) -> None:
    await (await world.start("billing")).stop()
    await eventually(lambda: len(publisher.get_nodes()) == 1)
    with pytest.raises(NoNodeAvailableError):
        await (publisher.send_to_all(Question()) if verb == "send_to_all" else unwrapped(publisher.send(Question())))


SERVICES = ("audit", "billing", "mail")


class Restarts:
    """Services whose only nodes are stopped, or crash, and are started again, while events are published."""

    def __init__(self, bed: Bed) -> None:
        self.bed = bed
        self.runs: Counter[tuple[str, int]] = Counter()
        self.over = False

    async def start(self, service: str) -> DistributedMediator:
        app = Mediator()

        @app.handler
        async def paid(event: Paid) -> None:
            self.runs[service, event.order] += 1
            await asyncio.sleep(0)

        return await self.bed.node(service, app, service=service)

    async def restart(self, service: str, node: DistributedMediator) -> None:
        for number in range(6):
            await asyncio.sleep(random.uniform(0.0, 0.2))
            await (self.bed.crash(node) if number % 2 else node.stop())
            await asyncio.sleep(random.uniform(0.0, 0.2))
            node = await self.start(service)

    async def publish(self, publisher: DistributedMediator, orders: Iterator[int]) -> list[int]:
        """Publish until it is over; again where the failure says NO. Returns the orders that succeeded."""
        succeeded: list[int] = []
        while not self.over:
            order = next(orders)
            while isinstance(result := await publisher.publish(Paid(order)), Failure):
                if result.error.execution is not Execution.NO:
                    break
            else:
                succeeded.append(order)
            await asyncio.sleep(0.001)
        return succeeded


async def test_while_services_restart_a_success_ran_once_in_each_and_a_retry_on_no_runs_nothing_twice() -> None:
    async with Bed("memory://publish-restarts") as bed:
        restarts, orders = Restarts(bed), itertools.count()
        publisher = await bed.node("publisher", service="publisher")
        nodes = [await restarts.start(service) for service in SERVICES]
        await eventually(lambda: len(publisher.get_nodes()) == 1 + len(nodes))
        publishing = [asyncio.create_task(restarts.publish(publisher, orders)) for _ in range(4)]
        await asyncio.gather(*map(restarts.restart, SERVICES, nodes))
        restarts.over = True
        succeeded = [order for each in await asyncio.gather(*publishing) for order in each]
    assert max(restarts.runs.values()) == 1
    assert succeeded
    assert [(order, s) for order in succeeded for s in SERVICES if not restarts.runs[s, order]] == []
