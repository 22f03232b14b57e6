"""The verbs of a node are called on other event loops, in other threads, and in forked processes."""

import asyncio
import contextlib
import sys
import threading
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from failures import Ask, Asked

from catga import DistributedMediator, Failure, Mediator, add_cluster, context, current_message
from catga.errors import ClosedError, Execution
from catga.testing.waiting import eventually


@pytest.fixture(params=["memory", "nats", "redis"])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}"
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
async def node(url: str) -> AsyncIterator[DistributedMediator]:
    app = Mediator()

    @app.handler
    async def ask(ask: Ask) -> int:
        return ask.number + len(current_message().context)

    @app.handler
    async def asked(asked: Asked) -> None: ...

    prefix = f"t{uuid.uuid4().hex[:12]}"
    async with (
        add_cluster(app, url, node_id="there", prefix=prefix),
        add_cluster(Mediator(), url, node_id="here", prefix=prefix) as here,
    ):
        yield here


async def in_thread(make: Callable[[], Awaitable[Any]]) -> Any:
    """What `make` returns on an event loop of its own, in a thread of its own."""

    async def main() -> Any:
        return await make()

    return await asyncio.to_thread(lambda: asyncio.run(main()))


@pytest.mark.parametrize("to_thread", [True, False])
async def test_a_handler_that_is_registered_in_another_thread_is_announced(url: str, to_thread: bool) -> None:
    app, prefix = Mediator(), f"t{uuid.uuid4().hex[:12]}"

    def register() -> None:
        app.handles(Ask)(lambda ask: ask.number)

    async with (
        add_cluster(app, url, node_id="there", prefix=prefix),
        add_cluster(Mediator(), url, node_id="here", prefix=prefix) as here,
    ):
        await (asyncio.to_thread(register) if to_thread else in_thread(lambda: asyncio.sleep(0, register())))
        await eventually(lambda: any(node.handles for node in here.get_nodes()))
        assert (await here.send(Ask(4))).unwrap() == 4


async def test_every_verb_works_on_another_event_loop(node: DistributedMediator) -> None:
    assert (await in_thread(lambda: node.send(Ask(4)))).unwrap() == 4
    assert (await in_thread(lambda: node.send_to_node(Ask(4), "there"))).unwrap() == 4
    assert (await in_thread(lambda: node.publish(Asked()))).is_success
    assert (await in_thread(lambda: node.broadcast(Asked()))).acknowledged == ("here", "there")
    assert list((await in_thread(lambda: node.send_to_all(Ask(4)))).answers) == ["there"]
    assert [r.unwrap() for r in await in_thread(lambda: node.send_batch([Ask(1), Ask(2)]))] == [1, 2]
    await in_thread(lambda: node.update(endpoint="tcp://new"))
    assert node.current_node.endpoint == "tcp://new"


async def test_the_context_goes_along(node: DistributedMediator) -> None:
    with context(tenant="acme"):
        assert (await in_thread(lambda: node.send(Ask(4)))).unwrap() == 5


async def test_many_threads_call_at_once(node: DistributedMediator) -> None:
    calls = [in_thread(lambda: node.send_batch([Ask(n) for n in range(50)])) for _ in range(4)]
    for results in await asyncio.gather(*calls):
        assert [result.unwrap() for result in results] == list(range(50))


async def test_a_coroutine_may_be_made_where_no_loop_runs(node: DistributedMediator) -> None:
    (coroutine,) = await asyncio.to_thread(lambda: (node.send(Ask(4)),))
    assert (await coroutine).unwrap() == 4


async def test_a_call_that_is_cancelled_there_is_cancelled_here(url: str) -> None:
    app, began, ended = Mediator(), asyncio.Event(), asyncio.Event()

    @app.handler
    async def ask(ask: Ask) -> int:
        began.set()
        try:
            return await asyncio.Future()
        finally:
            ended.set()

    there = threading.Event()

    async def call() -> None:
        task = asyncio.create_task(node.send(Ask()))
        await asyncio.to_thread(there.wait)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert task.cancelled()

    async with add_cluster(app, url, prefix=f"t{uuid.uuid4().hex[:12]}") as node:
        calling = asyncio.create_task(in_thread(call))
        await began.wait()
        there.set()
        await calling
        await ended.wait()


async def test_a_node_is_stopped_from_another_loop(url: str) -> None:
    node = add_cluster(Mediator(), url, prefix=f"t{uuid.uuid4().hex[:12]}")
    await node.start()
    assert await in_thread(node.stop) == ()
    assert node.health == "closed"


def test_a_loop_that_has_ended_is_told(url: str) -> None:
    """A program that ended its loop and forgot its node."""
    node = add_cluster(Mediator(), "memory://ended")

    async def begin() -> None:
        await node.start()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(begin())
    result = asyncio.run(_sent(node))
    assert isinstance(result, Failure)
    assert isinstance(result.error, ClosedError)
    assert result.error.execution is Execution.NO
    assert "event loop" in result.error.message
    loop.run_until_complete(node.stop())
    loop.close()


def test_a_call_whose_loop_ends_under_it_is_in_doubt() -> None:
    app, began, loops = Mediator(), threading.Event(), list[asyncio.AbstractEventLoop]()

    @app.handler
    async def ask(ask: Ask) -> int:
        began.set()
        return await asyncio.Future()

    node = add_cluster(app, "memory://ends", drain_timeout=0.0)

    def run() -> None:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(node.start())
        loops.append(loop)
        started.set()
        loop.run_forever()

    async def call() -> Any:
        calling = asyncio.create_task(_sent(node))
        await asyncio.to_thread(began.wait)
        loops[0].call_soon_threadsafe(loops[0].stop)
        return await calling

    started, thread = threading.Event(), threading.Thread(target=run)
    thread.start()
    started.wait()
    result = asyncio.run(call())
    thread.join()
    assert isinstance(result.error, ClosedError)
    assert (result.error.execution, result.error.message) == (
        Execution.MAYBE,
        "the event loop of the node ended before the call did",
    )
    loops[0].run_until_complete(node.stop())
    loops[0].close()


async def test_a_node_whose_loop_was_closed_gives_its_mediator_free(caplog: pytest.LogCaptureFixture) -> None:
    app = Mediator()

    @app.handler
    async def ask(ask: Ask) -> int:
        return ask.number

    node = add_cluster(app, "memory://closed")
    await asyncio.to_thread(lambda: asyncio.run(node.start()))
    assert node.health == "closed"
    async with add_cluster(app, "memory://closed-too", node_id="next"):
        assert (await app.send(Ask(4))).metadata.node_id == "next"
    assert isinstance((await app.send(Ask(4))).error, ClosedError)
    (lost,) = await node.stop()
    assert "nobody was told" in lost
    assert await node.stop() == ()
    assert (await app.send(Ask(4))).unwrap() == 4


async def _sent(node: DistributedMediator) -> Any:
    return await node.send(Ask())


async def test_a_forked_process_is_told_that_the_node_is_not_its_own() -> None:
    program = Path(__file__).parent / "forking.py"
    process = await asyncio.create_subprocess_exec(sys.executable, program, stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(60):
        told, _ = await process.communicate()
    before, after = told.decode().splitlines()
    assert before.startswith("ClosedError: node parents belongs to the process that forked this one")
    assert after == "5 by childs"
