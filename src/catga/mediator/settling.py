"""Work that goes on though its caller is cancelled: a store must hear how a run ended."""

import asyncio
from collections.abc import Coroutine
from typing import Any

SETTLE_TIMEOUT = 10.0
"""Seconds that `settled` waits, at most."""

_running: set[asyncio.Task[None]] = set()  # also keeps them from being collected


def begin(work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
    """Run `work` in a task of its own, for which `settled` waits."""
    task = asyncio.ensure_future(work)
    _running.add(task)
    task.add_done_callback(_ended)
    return task


async def settle(work: Coroutine[Any, Any, None]) -> None:
    """Run `work`, and go on with it if the caller is cancelled meanwhile: then nobody gets what it raises. Raises what
    `work` raises."""
    await asyncio.shield(begin(work))


def _ended(task: "asyncio.Task[None]") -> None:
    _running.discard(task)
    if not task.cancelled():
        task.exception()  # else asyncio complains that nobody asked for it


async def settled() -> bool:
    """Wait for all such work in this event loop, for `SETTLE_TIMEOUT` at most. Returns whether it has ended."""
    loop = asyncio.get_running_loop()
    tasks = [task for task in list(_running) if task.get_loop() is loop]  # a copy: other threads have loops, too
    if not tasks:
        return True
    _, pending = await asyncio.wait(tasks, timeout=SETTLE_TIMEOUT)
    return not pending
