"""What workers and callers share: how a process writes down its life, its calls and the stalls of its loop."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from tests.histories.records import Invoke, Life, Log, Outcome, Part, Stall, now
from tests.histories.words import CLASSES, KINDS

from catga import DistributedMediator
from catga.cluster import Gathered
from catga.errors import CatgaError
from catga.result import CatgaResult, Failure

LIFE = os.getpid()
TICK = 0.1
STALL = 0.4
"""A turn that is this much late is written down."""


class Calls:
    """Makes calls on a node, and writes down when each began and how it ended."""

    def __init__(self, node: DistributedMediator, log: Log) -> None:
        self._node = node
        self._log = log

    async def call(self, kind: str, request: str, timeout: float, work: float, key: str = "") -> None:
        """Make one call. Its cancellation is an outcome, too, and is passed on."""
        message = CLASSES[kind, timeout](request, work, key)
        self._log.write(
            Invoke(at=now(), request=request, kind=kind, timeout=timeout, caller=self._node.node_id, life=LIFE)
        )
        try:
            result = await self._send(KINDS[kind].verb, message)
        except asyncio.CancelledError:
            self._log.write(Outcome(at=now(), request=request, code="cancelled", execution="maybe"))
            raise
        except CatgaError as error:
            result = Failure(error)
        self._log.write(_outcome(request, result))

    async def _send(self, verb: str, message: object) -> CatgaResult[str] | Gathered[str]:
        send = {"send": self._node.send, "publish": self._node.publish, "all": self._node.send_to_all}[verb]
        return await send(message)


def _outcome(request: str, result: CatgaResult[str] | Gathered[str]) -> Outcome:
    if isinstance(result, Gathered):
        answers = {node: _part(answer) for node, answer in result.answers.items()}
        silent = {node: _part(Failure(error)) for node, error in result.silent.items()}
        return Outcome(at=now(), request=request, parts=answers | silent)
    part, where = _part(result), result.metadata
    text = str(result.error) if isinstance(result, Failure) else ""
    return Outcome(
        at=now(),
        request=request,
        value=part.value,
        code=part.code,
        execution=part.execution,
        text=text[:200],
        nodes=where.node_id,
        attempts=where.attempts,
    )


def _part(result: CatgaResult[str]) -> Part:
    if isinstance(result, Failure):
        return Part(code=result.error.code, execution=result.error.execution.value)
    return Part(value=result.value or "")


@asynccontextmanager
async def diary(node: DistributedMediator, log: Log, service: str = "") -> AsyncIterator[None]:
    """Inside of it each new incarnation of the node, and each stall of its loop, is written down."""
    _write_life(node, log, service)
    task = asyncio.create_task(_tick(node, log, service))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _tick(node: DistributedMediator, log: Log, service: str) -> None:
    incarnation = node.current_node.incarnation
    while True:
        before = now()
        await asyncio.sleep(TICK)
        if now() - before > TICK + STALL:
            log.write(Stall(at=before + TICK, until=now(), node=node.node_id))
        if node.current_node.incarnation != incarnation:
            incarnation = node.current_node.incarnation
            _write_life(node, log, service)


def _write_life(node: DistributedMediator, log: Log, service: str) -> None:
    incarnation = node.current_node.incarnation
    log.write(Life(at=now(), node=node.node_id, life=LIFE, incarnation=incarnation, service=service))


def log_of(folder: str, node: str) -> Log:
    """The file of this process alone."""
    return Log(Path(folder) / f"{node}-{LIFE}.jsonl")
