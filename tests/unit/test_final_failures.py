"""What the caller of a message is told in the end, whatever went wrong below."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from catga import DistributedMediator, Event, Failure, Mediator, Request, add_cluster, message
from catga.abc import Outgoing
from catga.backends.joining import BrokenError
from catga.cluster.attempts import Job
from catga.cluster.delivery import Delivery
from catga.errors import CatgaError, ClusterError, Execution, MaybeExecutedError, NoNodeAvailableError
from catga.result import CatgaResult
from catga.routing import Queue
from catga.testing.waiting import eventually

URL = "memory://final-failures"


@message(timeout=0.5)
@dataclass(frozen=True)
class Ask(Request[int]):
    pass


@message(timeout=0.5)
@dataclass(frozen=True)
class Queued(Request[int]):
    pass


@message(timeout=0.5)
@dataclass(frozen=True)
class Told(Event):
    pass


@dataclass(frozen=True)
class Fail(Request[int]):
    pass


@pytest.fixture
async def worker() -> AsyncIterator[DistributedMediator]:
    app = Mediator()

    @app.handler
    async def ask(request: Ask) -> int:
        return 1

    @app.handler
    async def queued(request: Queued) -> int:
        return 1

    @app.handler
    async def told(event: Told) -> None: ...

    @app.handler
    async def fail(request: Fail) -> int:
        raise BrokenError("the handler's own", details={"shelf": 7})

    async with add_cluster(app, URL, node_id="worker", queues=True) as worker:
        yield worker


@pytest.fixture
async def caller(worker: DistributedMediator) -> AsyncIterator[DistributedMediator]:
    caller = add_cluster(Mediator(), URL, node_id="caller")
    caller.route(Queued, Queue())
    async with caller:
        await eventually(lambda: len(caller.get_nodes()) == 2)
        yield caller


def error_of(result: CatgaResult[Any]) -> CatgaError:
    assert isinstance(result, Failure)
    return result.error


def fail_to_publish(node: DistributedMediator, error: Exception) -> None:
    def publish(_: Sequence[Outgoing]) -> bool:
        raise error

    node._node.peer._transport.publish = publish  # type: ignore[union-attr, method-assign]


@pytest.mark.parametrize("cls", [ClusterError, BrokenError])
@pytest.mark.parametrize("sent", [Ask(), Queued(), Told()])
async def test_a_transport_that_takes_nothing_until_the_deadline_is_no_node_available(
    caller: DistributedMediator, cls: type[ClusterError], sent: Any
) -> None:
    fail_to_publish(caller, cls("the link is down", details={"since": 1}))
    error = error_of(await (caller.publish(sent) if isinstance(sent, Event) else caller.send(sent)))
    assert (type(error), error.execution, error.details) == (NoNodeAvailableError, Execution.NO, {"since": 1})
    assert "the link is down" in error.message
    assert type(error.__cause__) is cls


async def test_a_transport_that_fails_in_an_unknown_way_leaves_a_doubt(caller: DistributedMediator) -> None:
    fail_to_publish(caller, ValueError("what is this?"))
    error = error_of(await caller.send(Ask()))
    assert (type(error), error.execution, error.is_retryable) == (MaybeExecutedError, Execution.MAYBE, False)
    assert "what is this?" in error.message


async def test_calls_that_fail_together_do_not_share_their_error(caller: DistributedMediator) -> None:
    fail_to_publish(caller, BrokenError("the link is down"))
    one, other = await asyncio.gather(caller.send(Ask()), caller.send(Ask()))
    assert error_of(one) is not error_of(other)


async def test_a_cluster_error_that_a_handler_raised_reaches_its_caller_as_it_is(
    caller: DistributedMediator, worker: DistributedMediator
) -> None:
    for node in (caller, worker):
        error = error_of(await node.send(Fail()))
        assert (error.code, error.execution) == (ClusterError.code, Execution.ANSWERED)
        assert (error.message, error.details) == ("the handler's own", {"shelf": 7})


@pytest.mark.parametrize("sent", [Ask(), Queued(), Told()])
async def test_an_attempt_that_the_deadline_lets_not_even_leave_hides_no_failure(
    caller: DistributedMediator, sent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_to_publish(caller, BrokenError("the link is down"))

    async def pause(_: Delivery, job: Job, least: float = 0.0) -> bool:  # just not over at the deadline, by its word
        await asyncio.sleep(job.deadline - asyncio.get_running_loop().time())
        paused.append(least)
        return len(paused) == 1

    paused: list[float] = []
    monkeypatch.setattr(Delivery, "_pause", pause)
    error = error_of(await (caller.publish(sent) if isinstance(sent, Event) else caller.send(sent)))
    assert (type(error), error.execution) == (NoNodeAvailableError, Execution.NO)
    assert "the link is down" in error.message
    assert paused
