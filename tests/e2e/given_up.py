"""A start, or a stop, that is cancelled at a chosen step, and what stays open at the broker."""

import asyncio
import gc
import json
import urllib.request
import warnings
from collections.abc import Callable
from contextvars import Context
from typing import Any

import redis

from catga import Mediator, add_cluster
from catga.testing.waiting import eventually

Count = Callable[[], int]
"""How many connections of the node's the server has."""


class SteppedLoop(asyncio.SelectorEventLoop):
    """Calls `act` beside the callback number `at` that is scheduled: before it, or after it."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0
        self.at = -1
        self.is_after = False
        self.act: Callable[[], object] = lambda: None

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> asyncio.Handle:
        self.steps += 1
        hit = self.steps == self.at
        if hit and not self.is_after:
            super().call_soon(self.act)
        handle = super().call_soon(callback, *args, context=context)
        if hit and self.is_after:
            super().call_soon(self.act)
        return handle


def nats_connections(monitor: int) -> int:
    """Connections that catga's clients have, by the server's monitoring port."""
    with urllib.request.urlopen(f"http://127.0.0.1:{monitor}/connz") as answer:
        return sum(each.get("name") == "catga" for each in json.load(answer)["connections"])


def redis_connections(url: str) -> int:
    """Connections besides the one that asks."""
    with redis.Redis.from_url(url) as client:
        return len(client.client_list()) - 1


def steps_of(url: str, verb: str, timeout: float = 10.0) -> int:
    """How many callbacks an undisturbed start, or stop, takes. timeout: the node's ``connect_timeout``."""
    return _run(url, verb, -1, False, timeout)


def give_up(url: str, verb: str, at: int, is_after: bool, count: Count, timeout: float = 10.0) -> None:
    """Cancel the start, or the stop, of a node at that step. Fail if anything stays: a task, a socket, a connection."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        _run(url, verb, at, is_after, timeout)
        gc.collect()
    assert not [str(each.message) for each in caught if issubclass(each.category, ResourceWarning)]
    asyncio.run(eventually(lambda: count() == 0, what=f"no connection is left after {verb} was cancelled at {at}"))


def _run(url: str, verb: str, at: int, is_after: bool, timeout: float) -> int:
    loop = SteppedLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(_cancelled(loop, url, verb, at, is_after, timeout))


async def _cancelled(loop: SteppedLoop, url: str, verb: str, at: int, is_after: bool, timeout: float) -> int:
    node = add_cluster(Mediator(), url, node_id="given-up", connect_timeout=timeout)
    if verb == "stop":
        await node.start()
    task = asyncio.ensure_future(getattr(node, verb)())
    loop.steps, loop.at, loop.is_after, loop.act = 0, at, is_after, task.cancel
    await asyncio.wait([task])
    steps, loop.at = loop.steps, -1
    failed = task.cancelled() or task.exception() is not None
    if verb == "start" and not failed:
        await node.stop()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if verb == "start":
        assert not others, others
    elif others:  # a stop that was given up goes to its end
        await asyncio.wait(others, timeout=15.0)
    return steps
