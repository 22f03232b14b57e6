"""Lets catga's code take its clocks and its chance from the simulated process that runs it."""

import asyncio
import contextlib
import functools
import gc
import importlib.util
import logging
import random
import sys
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from unittest import mock

from simulation import Loop

import catga.cluster.delivery
import catga.cluster.node
import catga.rpc.outbox
import catga.rpc.places
import catga.rpc.runner
import catga.rpc.server
from catga.cluster.failover import RetryBudget
from catga.membership import Membership
from catga.node import NodeChangeEvent

if TYPE_CHECKING:
    from histories import Cluster

TIMED = (catga.rpc.outbox, catga.rpc.places, catga.rpc.runner, catga.rpc.server)


def _loop() -> Loop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Loop)
    return loop


class _Clock:
    """The clocks of the process that asks. What is left of one that was killed asks, too, once it is collected."""

    @staticmethod
    def time_ns() -> int:
        return _loop().time_ns()

    @staticmethod
    def perf_counter() -> float:
        loop = asyncio._get_running_loop()
        return 0.0 if loop is None else loop.time()

    @staticmethod
    def boottime() -> float:
        """Unlike any other's, and unlike the loop's."""
        loop = asyncio._get_running_loop()
        return 0.0 if loop is None else loop.time() + _loop().epoch


@contextlib.contextmanager
def simulated(cluster: "Cluster") -> Iterator[None]:
    """Let nodes take their clocks and their chance from the loop they run in, and report to `cluster`."""

    class Watched(Membership):
        def __init__(self, *args: Any, **options: Any) -> None:
            loop = _loop()
            super().__init__(*args, **options, clock=loop.time, random=loop.random)

        def _changed(self, event: NodeChangeEvent) -> None:
            cluster.changed(self, event)
            super()._changed(event)

    patches = [
        mock.patch.object(catga.cluster.node, "Membership", Watched),
        mock.patch.object(catga.cluster.node, "time", _Clock),
        mock.patch.object(
            catga.cluster.delivery, "RetryBudget", functools.partial(RetryBudget, reserve=cluster.reserve)
        ),
        *[mock.patch.object(module, "perf_counter", _Clock.perf_counter, create=True) for module in TIMED],
    ]
    if importlib.util.find_spec("catga.rpc.clock"):
        patches.append(mock.patch("catga.rpc.clock.boottime", _Clock.boottime))
    logging.disable(logging.CRITICAL)
    state = random.getstate()
    random.seed(cluster.seed)  # what is spread by the module's own generator
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(_unseen_ends())
            for patch in patches:
                stack.enter_context(patch)
            yield
    finally:
        random.setstate(state)
        logging.disable(logging.NOTSET)


@contextlib.contextmanager
def _unseen_ends() -> Iterator[None]:
    """What is left of killed processes is collected at the end, and says nothing: a process that is killed does not."""
    with warnings.catch_warnings(), mock.patch.object(sys, "unraisablehook"):
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        gc.disable()
        try:
            yield
        finally:
            gc.collect()
            gc.enable()
