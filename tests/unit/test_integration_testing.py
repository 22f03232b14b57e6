"""What `catga.testing` gives to users: a cluster, a recorder, and faults."""

import asyncio
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import pytest

from catga import Event, Failure, Mediator, Request, add_cluster, message
from catga.errors import CatgaTimeoutError, ClusterError, InvalidMessageError, MaybeExecutedError, NoNodeAvailableError
from catga.testing import eventually
from catga.testing.cluster import memory_cluster
from catga.testing.faults import inject
from catga.testing.recorder import Recorder


@message(idempotent=True)
@dataclass(frozen=True)
class Ask(Request[str]):
    pass


@dataclass(frozen=True)
class Pay(Request[None]):
    pass


@dataclass(frozen=True)
class Paid(Event):
    pass


def app(name: str, gate: asyncio.Event | None = None) -> Mediator:
    mediator = Mediator()

    @mediator.handler
    async def ask(request: Ask) -> str:
        return name

    @mediator.handler
    async def pay(request: Pay) -> None:
        if gate is not None:
            await gate.wait()

    return mediator


async def test_a_memory_cluster_knows_all_its_nodes_and_no_others() -> None:
    async with memory_cluster(app("a"), app("b")) as (first, second), memory_cluster(app("c")) as (other,):
        assert [node.node_id for node in first.get_nodes()] == ["node-1", "node-2"]
        assert {(await second.send(Ask())).unwrap() for _ in range(4)} == {"a", "b"}
        assert len(other.get_nodes()) == 1


async def test_a_memory_cluster_that_does_not_start_leaves_its_mediators_as_they_were() -> None:
    first, last, no_mediator = app("a"), app("b"), cast(Mediator, object())
    with pytest.raises(TypeError, match="takes a Mediator"):
        async with memory_cluster(first, no_mediator):
            pass
    assert (await first.send(Ask())).unwrap() == "a"
    with pytest.raises(InvalidMessageError):
        async with memory_cluster(first, broken_app(), last):
            pass
    assert [(await each.send(Ask())).unwrap() for each in (first, last)] == ["a", "b"]


def broken_app() -> Mediator:
    """One whose node does not start: a message of it cannot travel."""
    mediator = Mediator(strict=False)
    mediator.handles(Odd)(lambda _: object())
    return mediator


async def test_a_recorder_has_what_was_sent_and_what_was_handled() -> None:
    recorder = Recorder()
    server = app("a")
    server.use(recorder)

    @server.handler
    async def paid(event: Paid) -> None:
        pass

    caller = Mediator()
    caller.use(recorder)
    async with memory_cluster(caller, server) as (node, _):
        await node.send(Ask())
        await node.publish(Paid())
        assert await recorder.wait_for(Paid) == [Paid()]
    assert recorder.sent_of(Ask) == recorder.handled_of(Ask) == [Ask()]
    assert recorder.sent[0].result.unwrap() == "a"
    recorder.clear()
    assert recorder.sent == recorder.handled == []
    with pytest.raises(AssertionError, match="1 Paid handled"):
        await recorder.wait_for(Paid, within=0.0)


@dataclass
class Odd(Request[object]):
    """Its answer cannot travel."""


@dataclass
class Fill(Request[list[int]]):
    items: list[int]


@dataclass
class Guarded(Request[list[int]]):
    items: list[int]
    lock: Any


async def fill(request: Fill | Guarded) -> list[int]:
    """Change the message, and give out a part of it."""
    request.items.append(len(request.items))
    return request.items


@pytest.mark.parametrize("make", [Fill, lambda items: Guarded(items, threading.Lock())])
async def test_a_recorder_keeps_what_was_sent_and_not_what_became_of_it(make: Callable[[list[int]], Fill]) -> None:
    recorder, app = Recorder(), Mediator(strict=False)
    app.use(recorder)
    app.handles(Fill)(fill)
    app.handles(Guarded)(fill)
    message = make([7])
    for _ in range(2):
        value = (await app.send(message)).unwrap()
    value.append(99)
    for records in (recorder.sent, recorder.handled):
        assert [record.message.items for record in records] == [[7], [7, 1]]
        assert [record.result.unwrap() for record in records] == [[7, 1], [7, 1, 2]]
    if isinstance(message, Guarded):
        assert recorder.sent[0].message.lock is message.lock


async def test_a_recorder_keeps_what_several_nodes_answered() -> None:
    recorder, app, caller = Recorder(), Mediator(), Mediator()
    caller.use(recorder)
    app.handles(Fill)(fill)
    async with memory_cluster(caller, app) as (node, _):
        gathered = await node.send_to_all(Fill([]))
        gathered.answers["node-2"].unwrap().append(99)
    assert recorder.sent[0].result.answers["node-2"].unwrap() == [0]


async def test_a_recorder_keeps_an_error_with_its_cause() -> None:
    recorder, app = Recorder(), Mediator()
    app.use(recorder)

    @app.handles(Ask)
    async def broken(request: Ask) -> str:
        raise ValueError("broken")

    result = await app.send(Ask())
    assert isinstance(result, Failure)
    assert recorder.sent[0].result.error is result.error
    assert isinstance(result.error.__cause__, ValueError)


@pytest.mark.usefixtures("settled_soon")
async def test_a_killed_node_is_left_and_its_calls_go_elsewhere() -> None:
    url = "memory://kill"
    caller = add_cluster(Mediator(), url, node_id="caller")
    doomed = add_cluster(app("doomed"), url, node_id="doomed", drain_timeout=0.0)
    other = add_cluster(app("other"), url, node_id="other")
    faults = inject(doomed)
    async with caller, doomed, other:
        assert {(await caller.send(Ask())).unwrap() for _ in range(4)} == {"doomed", "other"}
        await faults.kill()
        assert {(await caller.send(Ask())).unwrap() for _ in range(4)} == {"other"}
        await eventually(lambda: [node.node_id for node in caller.get_nodes()] == ["caller", "other"])


@pytest.mark.usefixtures("settled_soon")
async def test_a_call_in_flight_to_a_killed_node_says_that_it_may_have_run() -> None:
    gate = asyncio.Event()
    url = "memory://kill-in-flight"
    caller = add_cluster(Mediator(), url, node_id="caller")
    doomed = add_cluster(app("doomed", gate), url, node_id="doomed", drain_timeout=0.0)
    faults = inject(doomed)
    async with caller, doomed:
        call = asyncio.ensure_future(caller.send(Pay()))
        await eventually(lambda: doomed.current_node.handles and doomed.counters["batches"] > 0)
        await asyncio.wait([call], timeout=0.05)
        await faults.kill()
        result = await call
        assert isinstance(result, Failure)
        assert isinstance(result.error, MaybeExecutedError | NoNodeAvailableError)


async def test_a_partitioned_node_is_avoided_and_comes_back() -> None:
    url = "memory://partition"
    caller = add_cluster(Mediator(), url, node_id="caller", request_timeout=10.0)
    cut = add_cluster(app("cut"), url, node_id="cut")
    other = add_cluster(app("other"), url, node_id="other")
    faults = inject(cut)
    async with caller, cut, other:
        faults.is_partitioned = True
        assert {(await caller.send(Ask())).unwrap() for _ in range(4)} == {"other"}
        faults.is_partitioned = False

        async def is_back() -> bool:
            return {(await caller.send(Ask())).unwrap() for _ in range(4)} == {"cut", "other"}

        await eventually(is_back)


async def test_lost_and_late_batches_are_time_outs_never_wrong_answers() -> None:
    url = "memory://lossy"
    caller = add_cluster(Mediator(), url, node_id="caller", request_timeout=0.3)
    lossy = add_cluster(app("lossy"), url, node_id="lossy")
    faults = inject(lossy, seed=1)
    async with caller, lossy:
        faults.drop = 1.0
        result = await caller.send(Pay())
        assert isinstance(result, Failure)
        assert isinstance(result.error, CatgaTimeoutError | MaybeExecutedError | NoNodeAvailableError)
        faults.drop, faults.delay = 0.0, 0.01

        async def answers() -> bool:
            result = await caller.send(Ask())
            return result.is_success and re.fullmatch("lossy", result.unwrap()) is not None

        await eventually(answers)


async def test_late_batches_leave_before_their_node_does() -> None:
    url, ran, slow = "memory://late-leaver", asyncio.Event(), Mediator()

    @slow.handler
    async def pay(request: Pay) -> None:
        ran.set()

    late = add_cluster(slow, url, node_id="late")
    caller = add_cluster(Mediator(), url, node_id="caller", request_timeout=15.0)
    faults = inject(late)
    async with caller:
        async with late:
            await eventually(lambda: len(caller.get_nodes()) == 2)
            faults.delay = 0.3
            call = asyncio.ensure_future(caller.send(Pay()))
            await ran.wait()
        assert (await call).is_success


async def test_faults_are_not_injected_into_a_node_that_runs() -> None:
    async with memory_cluster(app("a")) as (node,):
        with pytest.raises(ClusterError, match="before it starts"):
            inject(node)
