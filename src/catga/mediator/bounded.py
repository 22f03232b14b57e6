"""Many calls at once, a bounded number in flight, results in the order of the requests."""

import asyncio
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
    """Results in order, as they are ready; `items` is read at most `concurrency` ahead of the consumer.

    An async generator is closed at the end. An error of `items` comes after the results of what it gave.
    """
    check_concurrency(concurrency)
    room = asyncio.Semaphore(concurrency)
    running: asyncio.Queue[asyncio.Future[R] | None] = asyncio.Queue()
    reading = asyncio.create_task(_read(call, items, running, room))
    try:
        while (future := await running.get()) is not None:
            yield await future
            room.release()
        await reading  # what it ended with, be it a cancellation of the source's own
    finally:
        reading.cancel()
        while not running.empty():
            if (future := running.get_nowait()) is not None:
                future.cancel()
        await asyncio.wait([reading])
        if not reading.cancelled():
            reading.result()


async def _read(
    call: Callable[[T], Awaitable[R]],
    items: Iterable[T] | AsyncIterable[T],
    running: "asyncio.Queue[asyncio.Future[R] | None]",
    room: asyncio.Semaphore,
) -> None:
    """Start the calls, then put None: one task from first to last, for `items` may hold a timeout or a group open."""
    source = aiter(items) if isinstance(items, AsyncIterable) else _each(items)
    try:
        await room.acquire()
        async for item in source:
            running.put_nowait(asyncio.ensure_future(call(item)))
            await room.acquire()
    finally:
        aclose: Callable[[], Awaitable[object]] | None = getattr(source, "aclose", None)
        try:
            if aclose is not None:
                await aclose()
        finally:
            running.put_nowait(None)


async def _each(items: Iterable[T]) -> AsyncIterator[T]:
    for item in items:
        yield item


def check_concurrency(concurrency: int) -> None:
    """Raise ValueError unless at least one call may run."""
    if concurrency < 1:
        raise ValueError(f"concurrency must be at least 1, got {concurrency}")
