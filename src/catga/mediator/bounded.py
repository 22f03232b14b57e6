"""Many calls at once, a bounded number in flight, results in the order of the requests."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, TypeVar

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
    results: AsyncGenerator[R, None]
    if isinstance(items, AsyncIterable):
        results = _coming(call, aiter(items), running, concurrency)
    else:
        results = _listed(call, items, running, concurrency)
    try:
        async for result in results:
            yield result
    finally:
        await results.aclose()
        for future in running:
            future.cancel()


async def _listed(
    call: Callable[[T], Awaitable[R]], items: Iterable[T], running: "deque[asyncio.Future[R]]", concurrency: int
) -> AsyncGenerator[R, None]:
    for item in items:
        running.append(asyncio.ensure_future(call(item)))
        if len(running) >= concurrency:
            yield await running.popleft()
    while running:
        yield await running.popleft()


async def _coming(
    call: Callable[[T], Awaitable[R]], source: AsyncIterator[T], running: "deque[asyncio.Future[R]]", concurrency: int
) -> AsyncGenerator[R, None]:
    """The next item may take its time, or wait for what becomes of a result: neither holds the other up."""
    coming: asyncio.Future[T] | None = None
    has_more = True
    try:
        while has_more or running:
            if has_more and coming is None and len(running) < concurrency:
                coming = asyncio.ensure_future(anext(source))
            heads: list[asyncio.Future[Any]] = [running[0]] if running else []
            await asyncio.wait(heads if coming is None else [*heads, coming], return_when=asyncio.FIRST_COMPLETED)
            if coming is not None and coming.done():
                try:
                    running.append(asyncio.ensure_future(call(coming.result())))
                except StopAsyncIteration:
                    has_more = False
                coming = None
            if running and running[0].done():
                yield running.popleft().result()
    finally:
        if coming is not None:
            coming.cancel()


def check_concurrency(concurrency: int) -> None:
    """Raise ValueError unless at least one call may run."""
    if concurrency < 1:
        raise ValueError(f"concurrency must be at least 1, got {concurrency}")
