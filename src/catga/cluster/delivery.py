"""One message to one of a pool of nodes, with failover: the reliability story in one loop."""

import asyncio
import random
from collections import Counter
from contextlib import suppress
from typing import Any

import msgspec

from catga.abc import RoutingStrategy
from catga.cluster.failover import RetryBudget, Verdict, judge
from catga.cluster.outliers import Outliers
from catga.cluster.table import Pool
from catga.codec import Codec, encode
from catga.errors import (
    CatgaError,
    CatgaTimeoutError,
    ClusterError,
    Execution,
    HandlerNotFoundError,
    InvalidMessageError,
    NoNodeAvailableError,
    OverloadedError,
)
from catga.node import NodeInfo
from catga.result import CatgaResult, Failure, ResultMetadata, Success
from catga.routing import Candidates
from catga.rpc.client import Outcome
from catga.rpc.peer import Peer
from catga.rpc.server import Endpoint
from catga.rpc.subjects import inbox, queue
from catga.rpc.wire import SMALL, Call

QUEUE_ATTEMPTS = 5
"""Times that a request is put into a queue, if nobody takes it or who takes it refuses: a second or so."""
MAX_PAUSE = 0.5
"""Seconds between two rounds through all candidates, at most."""


class Delivery:
    """Carries messages to nodes on behalf of one node.

    Args:
        link: set while the link to the bus is up.
        outliers: told of each call's end; leaves out the nodes that fail.
        failovers: counts, by wire name, the attempts that are made again elsewhere.
    """

    def __init__(
        self,
        peer: Peer,
        prefix: str,
        link: asyncio.Event,
        outliers: Outliers,
        failovers: Counter[str],
    ) -> None:
        self._peer = peer
        self._prefix = prefix
        self._link = link
        self._outliers = outliers
        self._failovers = failovers
        self._budget = RetryBudget()
        self._loop = asyncio.get_running_loop()

    async def deliver(self, job: "Job", pool: Pool, strategy: RoutingStrategy) -> CatgaResult[Any]:
        """Carry `job` to a node of `pool` that `strategy` picks, and to another where that is safe.

        Returns the handler's result, or the failure that ended the attempts; raises only CancelledError.
        """
        self._budget.deposit()
        codec, message = job.codec, job.message
        tried: set[str] = set()
        failure: Failure | None = None
        while True:
            nodes = pool() if self._link.is_set() else await self._without_link(pool, job)
            try:
                node = _pick(strategy, self._outliers.admit(nodes, tried), message, again=bool(tried))
                if node is None:
                    if not nodes or not await self._pause(failure, job):
                        return _final(failure or Failure(self._why_nobody()), job)
                    tried.clear()
                    continue
                with self._outliers.call(node.node_id) as call:
                    result = call.result = await self._attempt(job, node)
            except CatgaError as error:  # the key function, the encoder, or the decoder of the value
                return Failure(error, ResultMetadata("", job.attempts))
            if isinstance(result, Success):
                return result
            if judge(result.error, idempotent=codec.idempotent, budget=self._budget) is Verdict.FINAL:
                return _final(result, job)
            failure = result
            job.in_doubt = job.in_doubt or result.error.execution is Execution.MAYBE
            tried.add(node.node_id)
            self._failovers[codec.name] += 1

    async def deliver_queued(self, job: "Job") -> CatgaResult[Any]:
        """Carry `job` to a node that the broker picks, and to another where that is safe. Returns like `deliver`."""
        self._budget.deposit()
        while True:
            if not await self._linked(job):
                return Failure(_no_link(), ResultMetadata("", job.attempts))
            try:
                result = await self._attempt_queued(job)
            except CatgaError as error:  # the encoder, or the decoder of the value
                return Failure(error, ResultMetadata("", job.attempts))
            if isinstance(result, Success):
                return result
            verdict = judge(result.error, idempotent=job.codec.idempotent, budget=self._budget)
            if verdict is Verdict.FINAL or job.attempts >= QUEUE_ATTEMPTS:
                return _final(result, job)
            if type(result.error) is ClusterError and not await self._pause(result, job):
                return _final(result, job)
            job.in_doubt = job.in_doubt or result.error.execution is Execution.MAYBE
            self._failovers[job.codec.name] += 1

    async def _attempt_queued(self, job: "Job") -> CatgaResult[Any]:
        job.attempts += 1
        left = job.deadline - self._loop.time()
        if left <= 0:
            return Failure(_expired(), ResultMetadata("", job.attempts))
        client = self._peer.client
        to = client.queue(queue(self._prefix, job.codec.name))
        taker: list[str] = []
        outcome = await client.call(
            to, self._call(job, left), job.deadline, idempotent=job.codec.idempotent, taker=taker
        )
        return _result(job, outcome, taker[0] if taker else "")

    async def _attempt(self, job: "Job", node: NodeInfo) -> CatgaResult[Any]:
        """One attempt, here or there."""
        job.attempts += 1
        left = job.deadline - self._loop.time()
        if left <= 0:
            return Failure(_expired(), ResultMetadata("", job.attempts))
        if job.local is not None and node.node_id == self._peer.node_id:
            result = await self._peer.server.run_local(job.local, job.message, left)
            return result if job.attempts == 1 else _counted(result, node, job.attempts)
        call = self._call(job, left)
        to = self._peer.client.destination(
            node.node_id, node.incarnation, inbox(self._prefix, node.node_id, node.incarnation)
        )
        outcome = await self._peer.client.call(to, call, job.deadline, idempotent=job.codec.idempotent)
        return _result(job, outcome, node.node_id)

    def _call(self, job: "Job", left: float) -> Call:
        """The frame of one attempt."""
        if job.body is None:
            job.body = self._encode(job.message)
        call_id = self._peer.client.new_id()
        call = Call(call_id, job.codec.name, int(left * 1000) + 1, job.body, job.key, job.headers)
        job.key = job.key or call_id
        return call

    async def _pause(self, failure: Failure | None, job: "Job") -> bool:
        """All candidates were tried: whether another round makes sense, after a pause."""
        if failure is None or isinstance(failure.error, OverloadedError | HandlerNotFoundError):
            return False
        if self._peer.client.closed:
            return False
        left = job.deadline - self._loop.time()
        if left <= 0:
            return False
        await asyncio.sleep(min(left, random.uniform(0.02, MAX_PAUSE)))
        return self._loop.time() < job.deadline  # if not, the last failure says more than that

    async def _without_link(self, pool: Pool, job: "Job") -> Candidates:
        """The link is down: this node itself, if it is a candidate; else wait for the link."""
        me = self._peer.node_id
        here = pool().only(me, lambda node: node.node_id == me)
        if here and job.local is not None:
            return here
        return pool() if await self._linked(job) else Candidates()

    async def _linked(self, job: "Job") -> bool:
        """Wait for the link; whether it came up in time."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(job.deadline):
                await self._link.wait()
        return self._link.is_set()

    def _why_nobody(self) -> CatgaError:
        return ClusterError("no node can take this message") if self._link.is_set() else _no_link()

    def _encode(self, message: Any) -> bytes:
        body = encode(message)
        if len(body) > SMALL and len(body) > (limit := self._peer.max_body):
            raise InvalidMessageError(
                f"{type(message).__qualname__} has {len(body)} bytes, the broker's limit is {limit}",
                details={"bytes": len(body), "limit": limit},
            )
        return body


class Job(msgspec.Struct, eq=False):
    """One message on its way through its attempts.

    Attributes:
        local: runs it, if this node has a handler.
        deadline: the loop's time at which the attempts end.
        headers: travel with it.
        attempts: made so far.
        body: the encoded message, once one attempt needed it.
        key: the id of the first attempt over the bus.
        in_doubt: an attempt may have run the handler.
    """

    message: Any
    codec: Codec
    local: Endpoint | None
    deadline: float
    headers: dict[str, str] | None
    attempts: int = 0
    body: bytes | None = None
    key: int = 0
    in_doubt: bool = False


def _pick(strategy: RoutingStrategy, nodes: Candidates, message: Any, *, again: bool) -> NodeInfo | None:
    """The strategy's choice; None if there is none, or, in a later attempt, none that its filters let through."""
    try:
        return strategy.select(nodes, message) if nodes else None
    except NoNodeAvailableError:
        if again:
            return None
        raise


def _result(job: Job, outcome: Outcome, node_id: str) -> CatgaResult[Any]:
    metadata = ResultMetadata(node_id, job.attempts)
    if isinstance(outcome, CatgaError):
        return Failure(outcome, metadata)
    return Success(job.codec.decode_response(outcome.body) if job.codec.answered else None, metadata)


def _final(failure: Failure, job: Job) -> Failure:
    """The failure that the caller gets: in doubt if any attempt was. A bare `ClusterError` told of one node's
    trouble; in the end, it is that no node was available."""
    error = failure.error
    if type(error) is ClusterError:
        error = NoNodeAvailableError(str(failure.error))
        error.__cause__ = failure.error
        error.execution = failure.error.execution
    if job.in_doubt and error.execution is Execution.NO:
        error.execution = Execution.MAYBE
    return Failure(error, failure.metadata)


def _counted(result: CatgaResult[Any], node: NodeInfo, attempts: int) -> CatgaResult[Any]:
    metadata = ResultMetadata(node.node_id, attempts)
    if isinstance(result, Success):
        return Success(result.value, metadata)
    return Failure(result.error, metadata)


def _expired() -> CatgaError:
    error = CatgaTimeoutError("the deadline passed before the request could be sent")
    error.execution = Execution.NO
    return error


def _no_link() -> CatgaError:
    error = CatgaTimeoutError("the link to the broker was down until the deadline")
    error.execution = Execution.NO
    return error
