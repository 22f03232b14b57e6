"""Streams of requests: results as they are ready, and a source that is read by one task and closed."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from catga import Mediator, Request


@dataclass(frozen=True)
class Ask(Request[int]):
    number: int


async def answer(ask: Ask) -> int:
    return ask.number


@pytest.fixture
def app() -> Mediator:
    mediator = Mediator()
    mediator.handles(Ask)(answer)
    return mediator


async def test_a_result_is_there_before_the_next_request_is(app: Mediator) -> None:
    todo: asyncio.Queue[int] = asyncio.Queue()

    async def source() -> AsyncIterator[Ask]:
        while (number := await todo.get()) < 3:
            yield Ask(number)

    todo.put_nowait(0)
    seen: list[int] = []
    async for result in app.send_stream(source(), concurrency=4):
        seen.append(result.unwrap())
        todo.put_nowait(seen[-1] + 1)
    assert seen == [0, 1, 2]


async def test_the_source_may_hold_a_timeout_open_between_two_requests(app: Mediator) -> None:
    async def source() -> AsyncIterator[Ask]:
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for number in range(5):
                await group.create_task(asyncio.sleep(0))
                yield Ask(number)

    assert [r.unwrap() async for r in app.send_stream(source(), concurrency=2)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("is_async", [True, False])
async def test_an_error_of_the_source_comes_after_the_results_of_what_it_gave(app: Mediator, is_async: bool) -> None:
    def given() -> Iterator[Ask]:
        yield from (Ask(0), Ask(1), Ask(2))
        raise OSError("the file ends here")

    async def source() -> AsyncIterator[Ask]:
        for ask in given():
            yield ask

    stream: Any = app.send_stream(source() if is_async else given(), concurrency=8)
    assert [(await anext(stream)).unwrap() for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="ends here"):
        await anext(stream)


@pytest.mark.parametrize("is_waiting", [True, False])
async def test_the_source_of_one_that_is_left_is_closed(app: Mediator, is_waiting: bool) -> None:
    closed: list[bool] = []

    async def source() -> AsyncIterator[Ask]:
        try:
            for number in range(100):
                yield Ask(number)
                if is_waiting:
                    await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            closed.append(True)

    stream: Any = app.send_stream(source(), concurrency=2)
    async for _ in stream:
        break
    await stream.aclose()
    assert closed == [True]


async def test_an_error_of_closing_the_source_is_told(app: Mediator) -> None:
    async def source() -> AsyncIterator[Ask]:
        try:
            while True:
                yield Ask(1)
        finally:
            raise OSError("cannot close")

    stream: Any = app.send_stream(source(), concurrency=2)
    await anext(stream)
    with pytest.raises(OSError, match="cannot close"):
        await stream.aclose()


async def test_a_source_that_runs_into_a_cancelled_task_does_not_end_as_if_it_were_complete(app: Mediator) -> None:
    async def requests() -> AsyncIterator[Ask]:
        yield Ask(1)
        raise asyncio.CancelledError

    stream = app.send_stream(requests())
    assert (await anext(stream)).unwrap() == 1
    with pytest.raises(asyncio.CancelledError):
        await anext(stream)
