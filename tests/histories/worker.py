"""A worker of a history: python -m tests.histories.worker URL FOLDER WORKER-PLAN. Ends on SIGTERM, gracefully."""

import asyncio
import itertools
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from tests.histories.plan import WorkerPlan
from tests.histories.process import LIFE, Calls, diary, log_of
from tests.histories.records import End, Failed, Gone, Log, Start, now
from tests.histories.words import CLASSES, KINDS, Kind, proof

from catga import DistributedMediator, Mediator, add_cluster
from catga.errors import CatgaError

INNER_TIMEOUTS = (0.5, 2.0)


class Handlers:
    """The handlers of one worker. Each writes down that it began before it does anything."""

    def __init__(self, plan: WorkerPlan, log: Log) -> None:
        self.app = Mediator()
        self.node: DistributedMediator | None = None
        self._plan = plan
        self._log = log
        self._inner = itertools.count()
        for (name, _), cls in CLASSES.items():
            self._add(KINDS[name], cls)

    @contextmanager
    def _written(self, request: str) -> Iterator[None]:
        plan = self._plan
        self._log.write(Start(at=now(), request=request, node=plan.node, life=LIFE, service=plan.service))
        how = "done"
        try:
            yield
        except BaseException as error:
            how = type(error).__name__
            raise
        finally:
            self._log.write(End(at=now(), request=request, node=plan.node, how=how))

    def _proof(self, request: str) -> str:
        return proof(self._plan.node, LIFE, request)

    def _add(self, kind: Kind, cls: Any) -> None:
        if kind.verb == "publish":
            self._add_event(cls)
        elif kind.work == "plain":
            self._add_plain(cls)
        else:
            self._add_async(cls, {"wait": _wait, "burn": _burn_later, "relay": self._relay}[kind.work])

    def _add_plain(self, cls: Any) -> None:
        def handle(request: cls) -> str:
            with self._written(request.id):
                _burn(request.work)
                return self._proof(request.id)

        self.app.handler(handle)

    def _add_async(self, cls: Any, work: Callable[[Any], Awaitable[None]]) -> None:
        async def handle(request: cls) -> str:
            with self._written(request.id):
                await work(request)
                return self._proof(request.id)

        self.app.handler(handle)

    def _add_event(self, cls: Any) -> None:
        async def handle(event: cls) -> None:
            with self._written(event.id):
                await _wait(event)

        self.app.handler(handle)

    async def _relay(self, request: Any) -> None:
        """Call another handler through the cluster; its failure is not ours."""
        number = next(self._inner)
        if self.node is not None:
            timeout = INNER_TIMEOUTS[number % len(INNER_TIMEOUTS)]
            inner = f"{request.id}/{self._plan.node}.{LIFE}.{number}"
            await Calls(self.node, self._log).call("inner", inner, timeout, 0.01)


async def _wait(request: Any) -> None:
    await asyncio.sleep(request.work)


async def _burn_later(request: Any) -> None:
    await asyncio.sleep(0)
    _burn(request.work)


def _burn(seconds: float) -> None:
    """Use the CPU: a stopped process does not count its sleep as work."""
    end = now() + seconds
    while now() < end:
        pass


def _end_with_driver() -> None:
    """A worker does not outlive its driver, which holds the other end of its standard input."""
    os.read(0, 1)
    os._exit(1)


async def main(url: str, folder: str, plan_text: str) -> None:
    threading.Thread(target=_end_with_driver, daemon=True).start()
    plan = msgspec.json.decode(plan_text, type=WorkerPlan)
    log = log_of(folder, plan.node)
    handlers = Handlers(plan, log)
    ending = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ending.set)
    node = await _join(url, plan, handlers.app, log)
    handlers.node = node
    async with diary(node, log, plan.service):
        print("ready", flush=True)
        await ending.wait()
    log.write(Gone(at=now(), node=plan.node, life=LIFE))
    await node.stop()


async def _join(url: str, plan: WorkerPlan, app: Mediator, log: Log) -> DistributedMediator:
    """The node, joined; each try that failed is written down."""
    while True:
        node = add_cluster(
            app,
            url,
            node_id=plan.node,
            service=plan.service,
            max_concurrency=plan.max_concurrency,
            max_queue=plan.max_queue,
            queues=True,
            connect_timeout=20.0,
            drain_timeout=5.0,
        )
        try:
            await node.start()
        except CatgaError as error:
            log.write(Failed(at=now(), node=plan.node, text=str(error)))
        else:
            return node


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
