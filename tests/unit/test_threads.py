"""Blocking functions in threads: what becomes of them when their caller leaves."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from catga import (
    CatgaResult,
    DistributedMediator,
    Event,
    Failure,
    Mediator,
    Request,
    add_cluster,
    current,
    current_cluster,
    message,
)
from catga.errors import CatgaTimeoutError, Execution, InvalidMessageError, OverloadedError
from catga.mediator.threads import Threads
from catga.testing import eventually

DEADLINE = 30.0


@message(timeout=0.1)
@dataclass(frozen=True)
class Read(Request[int]):
    number: int = 0


@dataclass(frozen=True)
class Down(Request[int]):
    steps: int


@dataclass(frozen=True)
class Saved(Event):
    pass


class Disk:
    """What a blocking handler waits for."""

    def __init__(self) -> None:
        self.is_ready = threading.Event()
        self.reads: list[int] = []
        self.ended = 0

    def read(self, request: Read) -> int:
        self.reads.append(request.number)
        assert self.is_ready.wait(DEADLINE)
        self.ended += 1
        return request.number


@pytest.fixture
def disk() -> Disk:
    return Disk()


def app(disk: Disk) -> Mediator:
    made = Mediator()
    made.handles(Read, in_thread=True)(disk.read)
    return made


@pytest.mark.parametrize("caller", ["worker", "other"])
async def test_a_thread_keeps_its_place_though_its_caller_has_left(disk: Disk, caller: str) -> None:
    url = f"memory://threads-places-{caller}"
    async with (
        add_cluster(app(disk), url, node_id="worker", max_concurrency=1, max_queue=0) as worker,
        add_cluster(Mediator(), url, node_id="other") as other,
    ):
        send = {"worker": worker, "other": other}[caller].send
        assert isinstance((await send(Read())).error, CatgaTimeoutError)
        assert isinstance((await send(Read(1))).error, OverloadedError)
        disk.is_ready.set()

        async def is_free() -> bool:
            return (await send(Read(2))).is_success

        await eventually(is_free)
    assert 1 not in disk.reads


async def test_a_node_that_leaves_waits_for_its_threads(disk: Disk) -> None:
    async with add_cluster(app(disk), "memory://threads-drain", node_id="worker") as worker:
        assert isinstance((await worker.send(Read())).error, CatgaTimeoutError)
        leaving = asyncio.create_task(worker.stop())
        await eventually(lambda: worker.not_ready)
        assert not (await asyncio.wait([leaving], timeout=0.1))[0]
        disk.is_ready.set()
        assert await leaving == ()
    assert disk.ended == 1


async def test_a_node_that_leaves_waits_no_longer_than_it_was_told(disk: Disk) -> None:
    async with add_cluster(app(disk), "memory://threads-late", node_id="worker", drain_timeout=0.1) as worker:
        assert isinstance((await worker.send(Read())).error, CatgaTimeoutError)
        assert await worker.stop() == ("handlers were cancelled",)
    disk.is_ready.set()


async def test_a_call_that_waits_for_a_thread_never_begins_once_its_caller_has_left(disk: Disk) -> None:
    mediator = app(disk)
    mediator._threads = Threads(1)
    results = await asyncio.gather(*(mediator.send(Read(number)) for number in range(3)))
    assert all(isinstance(result.error, CatgaTimeoutError) for result in results if isinstance(result, Failure))
    disk.is_ready.set()
    assert (await mediator.send(Read(9))).is_success
    assert disk.reads == [0, 9]


async def test_a_bug_that_comes_after_the_caller_has_left_is_logged(
    disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    mediator = Mediator()

    @mediator.handler(in_thread=True)
    def read(request: Read) -> int:
        disk.read(request)
        raise ValueError("late")

    assert isinstance((await mediator.send(Read())).error, CatgaTimeoutError)
    assert not caplog.records
    disk.is_ready.set()
    await eventually(lambda: [record.levelno for record in caplog.records] == [logging.ERROR])
    assert "raised ValueError" in caplog.text


@dataclass(frozen=True)
class Next(Request[int]):
    pass


@asynccontextmanager
async def two_steps(disk: Disk, step: Any, results: list[CatgaResult[int]]) -> AsyncIterator[DistributedMediator]:
    """A node whose `Read` blocks until the disk is ready, and sends a `Next` then, which `step` handles."""
    mediator = Mediator()
    mediator.handles(Next)(step)

    @mediator.handler(in_thread=True)
    def read(request: Read) -> int:
        disk.read(request)
        results.append(asyncio.run(current().send(Next())))
        return 1

    async with add_cluster(mediator, f"memory://{step.__qualname__}", node_id="worker") as worker:
        yield worker


async def test_what_a_thread_sends_fails_once_its_caller_has_left(disk: Disk) -> None:
    results: list[CatgaResult[int]] = []

    async def never(_: Next) -> int:
        raise AssertionError

    async with two_steps(disk, never, results) as worker:
        assert isinstance((await worker.send(Read())).error, CatgaTimeoutError)
        disk.is_ready.set()
        await eventually(lambda: results)
    assert isinstance(results[0].error, CatgaTimeoutError)
    assert results[0].error.execution is Execution.NO


async def test_what_a_thread_waits_for_is_cancelled_when_its_caller_leaves(disk: Disk) -> None:
    results: list[CatgaResult[int]] = []
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def slow(_: Next) -> int:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return 1

    disk.is_ready.set()
    async with two_steps(disk, slow, results) as worker:
        sending = asyncio.create_task(worker.send(Read(), timeout=DEADLINE))
        await asyncio.wait_for(begun.wait(), DEADLINE)
        sending.cancel()
        await asyncio.wait_for(cancelled.wait(), DEADLINE)
        await eventually(lambda: results)
    assert isinstance(results[0].error, CatgaTimeoutError)
    assert results[0].error.execution is Execution.MAYBE


async def test_a_thread_may_stop_its_node() -> None:
    app, ended = Mediator(), list[tuple[str, ...]]()

    @app.handler(in_thread=True)
    def read(request: Read) -> int:
        ended.append(asyncio.run(current_cluster().stop()))
        return 1

    async with add_cluster(app, "memory://threads-stop", node_id="worker", drain_timeout=0.2) as worker:
        assert not (await worker.send(Read(), timeout=DEADLINE)).is_success
        await eventually(lambda: ended)
    assert ended == [("handlers were cancelled",)]


async def test_what_a_resolver_opened_is_closed_when_the_thread_has_ended(disk: Disk) -> None:
    open_sessions: list[object] = []

    class Resolver:
        @asynccontextmanager
        async def resolve(self, cls: type[Any]) -> AsyncIterator[Any]:
            open_sessions.append(cls)
            try:
                yield cls()
            finally:
                open_sessions.remove(cls)

    class Reader:
        def handle(self, request: Read) -> int:
            assert disk.read(request) == 0
            assert len(open_sessions) == 1
            return len(open_sessions)

    mediator = Mediator(resolver=Resolver())
    mediator.add_handler(Read, Reader, in_thread=True)
    assert isinstance((await mediator.send(Read())).error, CatgaTimeoutError)
    assert len(open_sessions) == 1
    disk.is_ready.set()
    await eventually(lambda: not open_sessions)
    assert (await mediator.send(Read())).unwrap() == 1


async def test_functions_that_wait_for_functions_get_threads_of_their_own() -> None:
    app = Mediator()
    app._threads = Threads(4)

    @app.handler(in_thread=True)
    def down(request: Down) -> int:
        return asyncio.run(current().send(Down(request.steps - 1))).unwrap() + 1 if request.steps else 0

    results = await app.send_batch([Down(3)] * 40, concurrency=40)
    assert [result.unwrap() for result in results] == [3] * 40


def test_a_coroutine_function_does_not_run_in_a_thread() -> None:
    mediator = Mediator()

    async def read(request: Read) -> int:
        return 1

    class Reader:
        async def handle(self, request: Read) -> int:
            return 1

    for register in (
        lambda: mediator.handler(in_thread=True)(read),
        lambda: mediator.handles(Read, in_thread=True)(read),
        lambda: mediator.add_handler(Read, Reader, in_thread=True),
    ):
        with pytest.raises(InvalidMessageError, match=r"is an `async def`.*in_thread=True is for a plain `def`"):
            register()
    assert not mediator.registry.names


async def test_a_function_that_is_registered_twice_runs_once() -> None:
    mediator, heard = Mediator(), list[Saved]()

    def saved(event: Saved) -> None:
        heard.append(event)

    for _ in range(2):
        mediator.handler(in_thread=True)(saved)
    assert (await mediator.publish(Saved())).is_success
    assert heard == [Saved()]


async def test_a_mediator_that_was_forked_makes_threads_of_its_own(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.is_ready.set()
    mediator = app(disk)
    assert (await mediator.send(Read(1))).is_success
    former = mediator._threads._executors[0]
    monkeypatch.setattr("catga.mediator.threads.os.getpid", lambda: -1)
    assert (await mediator.send(Read(2))).is_success
    assert mediator._threads._executors[0] is not former
