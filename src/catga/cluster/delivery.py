"""One message to one of a pool of nodes, with failover: the reliability story in one loop."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, cast

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
from catga.rpc.subjects import queue
from catga.rpc.wire import SMALL, Call, Reply

QUEUE_ATTEMPTS = 5
"""Times that a request is put into a queue, if nobody takes it or who takes it refuses: a second or so."""
NOBODY: frozenset[str] = frozenset()
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
        self._client = peer.client
        self._node_id = peer.node_id
        self._prefix = prefix
        self._link = link
        self._outliers = outliers
        self._failovers = failovers
        self._budget = RetryBudget()
        self._loop = asyncio.get_running_loop()

    async def deliver(  # noqa: C901 - on the path of every request
        self, message: Any, route: "Route", headers: dict[str, str] | None
    ) -> CatgaResult[Any]:
        """Carry a message to a node of its route's pool that the strategy picks, and to another where that is safe.

        Args:
            headers: travel with it.

        Returns the handler's result, or the failure that ended the attempts; raises only CancelledError.
        """
        outliers = self._outliers
        codec, pool, strategy = route.codec, route.pool, route.strategy
        nodes = pool()
        if not nodes and route.nobody is not None:
            return Failure(route.nobody(codec.name))
        now = self._loop.time()
        job = Job(message, route, headers, now + route.timeout)
        self._budget.deposits += 1
        tried = NOBODY
        failure: Failure | None = None
        while True:
            if not self._link.is_set():
                nodes, now = await self._without_link(pool, job), self._loop.time()
            try:
                able = outliers.admit(nodes, tried) if tried or outliers.ejected else nodes
                try:
                    node = strategy.select(able, message) if able else None
                except NoNodeAvailableError:  # in a later attempt: its filters let nobody through that is left
                    if failure is None:
                        raise
                    node = None
                if node is None:
                    if not nodes or not await self._pause(failure, job):
                        return _final(failure or Failure(self._why_nobody()), job)
                    tried, nodes, now = NOBODY, pool(), self._loop.time()
                    continue
                result: CatgaResult[Any] | None = None
                stats = outliers.stats[node.node_id]
                started = stats.started()
                trial = outliers.is_trial(node.node_id) if outliers.ejected else False
                try:
                    outcome = await self._begin(job, node, now)
                    if type(outcome) is Reply:
                        value = codec.decode_response(outcome.body) if codec.answered else None
                        result = Success(value, ResultMetadata(node.node_id, job.attempts))
                    else:
                        result = _result(job, outcome, node.node_id)
                except asyncio.CancelledError:
                    self._give_up(job)
                    raise
                finally:
                    if type(result) is Success and not outliers.suspected:
                        stats.ended(started)
                    else:
                        outliers.ended(stats, started, result, trial=trial)
            except CatgaError as error:  # the key function, the encoder, or the decoder of the value
                return Failure(error, ResultMetadata("", job.attempts))
            if type(result) is Success:
                return result
            failure = cast(Failure, result)
            if judge(failure.error, idempotent=codec.idempotent, budget=self._budget) is Verdict.FINAL:
                return _final(failure, job)
            job.in_doubt = job.in_doubt or failure.error.execution is Execution.MAYBE
            job.attempts += 1
            tried, nodes, now = tried | {node.node_id}, pool(), self._loop.time()
            self._failovers[codec.name] += 1

    async def deliver_queued(self, message: Any, route: "Route", headers: dict[str, str] | None) -> CatgaResult[Any]:
        """Carry a message to a node that the broker picks, and to another where that is safe, like `deliver`."""
        job = Job(message, route, headers, self._loop.time() + route.timeout)
        self._budget.deposits += 1
        while True:
            if not await self._linked(job):
                return Failure(_no_link(), ResultMetadata("", job.attempts))
            try:
                result = await self._attempt_queued(job)
            except CatgaError as error:  # the encoder, or the decoder of the value
                return Failure(error, ResultMetadata("", job.attempts))
            if isinstance(result, Success):
                return result
            verdict = judge(result.error, idempotent=job.route.codec.idempotent, budget=self._budget)
            if verdict is Verdict.FINAL or job.attempts >= QUEUE_ATTEMPTS:
                return _final(result, job)
            if type(result.error) is ClusterError and not await self._pause(result, job):
                return _final(result, job)
            job.in_doubt = job.in_doubt or result.error.execution is Execution.MAYBE
            job.attempts += 1
            self._failovers[job.route.codec.name] += 1

    async def _attempt_queued(self, job: "Job") -> CatgaResult[Any]:
        now = self._loop.time()
        if job.deadline <= now:
            return Failure(_expired(), ResultMetadata("", job.attempts))
        client = self._client
        to = client.queue(queue(self._prefix, job.route.codec.name))
        taker: list[str] = []
        call = self._call(job, now)
        ending = client.begin(to, call, now, job.deadline, job.route.codec.idempotent, taker)
        try:
            outcome = await ending
        except asyncio.CancelledError:
            self._give_up(job)
            raise
        return _result(job, outcome, taker[0] if taker else "")

    def _begin(self, job: "Job", node: NodeInfo, now: float) -> Awaitable[Outcome | CatgaResult[Any]]:
        """Begin one attempt, here or there. Returns its end."""
        deadline = job.deadline
        if deadline <= now:
            return _soon(_expired())
        codec, node_id, client = job.route.codec, node.node_id, self._client
        if node_id == self._node_id:
            server = self._peer.server
            endpoint = server.endpoint(codec.name, job.headers)
            if endpoint is not None:
                return server.run_local(endpoint, job.message, deadline - now)
        to = client.destination(node_id, node.incarnation)
        return client.begin(to, self._call(job, now), now, deadline, codec.idempotent)

    def _call(self, job: "Job", now: float) -> Call:
        """The frame of the next attempt."""
        last, key = job.call, 0
        if last is None:
            body = encode(job.message)
            if len(body) > SMALL:
                self._check_size(job.message, len(body))
        else:
            body, key = last.body, last.key or last.id
        call = job.call = Call(next(self._client.ids), job.route.codec.name, job.deadline - now, body, key, job.headers)
        return call

    def _give_up(self, job: "Job") -> None:
        if job.call is not None:
            self._client.give_up(job.call.id)

    async def _pause(self, failure: Failure | None, job: "Job") -> bool:
        """All candidates were tried: whether another round makes sense, after a pause."""
        if failure is None or isinstance(failure.error, OverloadedError | HandlerNotFoundError):
            return False
        if self._client.closed:
            return False
        left = job.deadline - self._loop.time()
        if left <= 0:
            return False
        await asyncio.sleep(min(left, random.uniform(0.02, MAX_PAUSE)))
        return self._loop.time() < job.deadline  # if not, the last failure says more than that

    async def _without_link(self, pool: Pool, job: "Job") -> Candidates:
        """The link is down: this node itself, if it is a candidate; else wait for the link."""
        me = self._node_id
        here = pool().only(me, lambda node: node.node_id == me)
        if here and self._peer.server.endpoint(job.route.codec.name, job.headers) is not None:
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

    def _check_size(self, message: object, size: int) -> None:
        limit = self._peer.max_body
        if size > limit:
            raise InvalidMessageError(
                f"{type(message).__qualname__} has {size} bytes, the broker's limit is {limit}",
                details={"bytes": size, "limit": limit},
            )


class Route(msgspec.Struct, frozen=True, eq=False):
    """How messages of one type are carried.

    Attributes:
        timeout: seconds for all attempts, from the first on.
        nobody: the error for a wire name, if the pool is empty from the start.
        is_queued: the broker picks the node, not the strategy.
    """

    codec: Codec
    pool: Pool
    strategy: RoutingStrategy
    timeout: float
    nobody: Callable[[str], CatgaError] | None = None
    is_queued: bool = False


class Job(msgspec.Struct, eq=False):
    """One message on its way through its attempts.

    Attributes:
        headers: travel with it.
        deadline: the loop's time at which they end.
        attempts: with the one under way.
        call: the newest that went over the bus.
        in_doubt: an attempt may have run the handler.
    """

    message: Any
    route: Route
    headers: dict[str, str] | None
    deadline: float
    attempts: int = 1
    call: Call | None = None
    in_doubt: bool = False


def _result(job: Job, outcome: Outcome | CatgaResult[Any], node_id: str) -> CatgaResult[Any]:
    """What an attempt came to, with its metadata."""
    if type(outcome) is Reply:
        value = job.route.codec.decode_response(outcome.body) if job.route.codec.answered else None
        return Success(value, ResultMetadata(node_id, job.attempts))
    if isinstance(outcome, CatgaError):
        return Failure(outcome, ResultMetadata(node_id, job.attempts))
    result = cast("CatgaResult[Any]", outcome)
    if job.attempts > 1:
        result = msgspec.structs.replace(result, metadata=ResultMetadata(node_id, job.attempts))
    return result


async def _soon(error: CatgaError) -> CatgaError:
    return error


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


def _expired() -> CatgaError:
    error = CatgaTimeoutError("the deadline passed before the request could be sent")
    error.execution = Execution.NO
    return error


def _no_link() -> CatgaError:
    error = CatgaTimeoutError("the link to the broker was down until the deadline")
    error.execution = Execution.NO
    return error
