"""Many calls at once, a bounded number in flight, results in the order of the requests."""

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


async def run_all(call: Callable[[T], Awaitable[R]], items: Iterable[T], concurrency: int) -> list[R]:
    """``[await call(item) for item in items]`` with up to `concurrency` of them at once."""
    check_concurrency(concurrency)
    todo = list(enumerate(items))
    todo.reverse()
    results: dict[int, R] = {}

    async def worker() -> None:
        while todo:
            index, item = todo.pop()
            results[index] = await call(item)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(concurrency, len(todo))):
            group.create_task(worker())
    return [results[index] for index in range(len(results))]


async def run_stream(
    call: Callable[[T], Awaitable[R]], items: Iterable[T] | AsyncIterable[T], concurrency: int
) -> AsyncIterator[R]:
    """Results in order, as they are ready; `items` is read at most `concurrency` ahead of the consumer."""
    check_concurrency(concurrency)
    running: deque[asyncio.Future[R]] = deque()
    try:
        async for item in _each(items):
            running.append(asyncio.ensure_future(call(item)))
            if len(running) >= concurrency:
                yield await running.popleft()
        while running:
            yield await running.popleft()
    finally:
        for task in running:
            task.cancel()


async def _each(items: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


def check_concurrency(concurrency: int) -> None:
    """Raise ValueError unless at least one call may run."""
    if concurrency < 1:
        raise ValueError(f"concurrency must be at least 1, got {concurrency}")
