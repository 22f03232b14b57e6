"""One message to one of a pool of nodes, with failover: the reliability story in one loop."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
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
from catga.result import CatgaResult, Failure, ResultMetadata, Success
from catga.routing import Candidates
from catga.rpc.destinations import Outcome
from catga.rpc.peer import Peer
from catga.rpc.runner import Endpoint
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
        self._server = peer.server
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
        outliers, client = self._outliers, self._client
        codec, pool, strategy = route.codec, route.pool, route.strategy
        nodes = pool()
        if not nodes and route.nobody is not None:
            return Failure(route.nobody(codec.name))
        now = self._loop.time()
        deadline = now + route.timeout
        self._budget.deposits += 1
        call: Call | None = None  # the newest that went over the bus
        failure: Failure | None = None
        tried: frozenset[str] = NOBODY
        attempts, in_doubt = 1, False
        while True:
            if not self._link.is_set():
                nodes, now = await self._without_link(route, headers, deadline), self._loop.time()
            try:
                able = outliers.admit(nodes, tried) if tried or outliers.ejected else nodes
                try:
                    node = strategy.select(able, message) if able else None
                except NoNodeAvailableError:  # in a later attempt: its filters let nobody through that is left
                    if failure is None:
                        raise
                    node = None
                if node is None:
                    waits = route.waits and self._server.refusing is None
                    if waits and not nodes:
                        failure = failure or Failure(self._why_nobody())
                    if not (nodes or waits) or not await self._pause(failure, deadline):
                        return _final(failure or Failure(self._why_nobody()), in_doubt)
                    tried, nodes, now = NOBODY, pool(), self._loop.time()
                    continue
                node_id = node.node_id
                result: CatgaResult[Any] | None = None
                stats = outliers.stats[node_id]
                started = stats.started()
                trial = outliers.is_trial(node_id) if outliers.ejected else False
                try:
                    outcome: Outcome | CatgaResult[Any]
                    if deadline <= now:
                        outcome = _expired()
                    elif node_id == self._node_id and (endpoint := self._endpoint(codec, headers)) is not None:
                        outcome = await self._server.run_local(endpoint, message, deadline - now)
                    else:
                        call = self._call(message, codec, headers, deadline - now, call)
                        to = client.destinations[node_id, node.incarnation]
                        outcome = await client.begin(to, call, now, deadline, codec.idempotent)
                        if type(outcome) is Reply and attempts == 1:  # what `_result` does, without its cost
                            result = Success(codec.decode_response(outcome.body), to.metadata)
                    if result is None:
                        result = _result(codec, outcome, node_id, attempts)
                except asyncio.CancelledError:
                    self._give_up(call)
                    raise
                finally:
                    if type(result) is Success and not outliers.suspected:
                        stats.ended(started)
                    else:
                        outliers.ended(stats, started, result, trial=trial)
            except CatgaError as error:  # the key function, the encoder, or the decoder of the value
                return Failure(error, ResultMetadata("", attempts))
            if type(result) is Success:
                return result
            failure = cast(Failure, result)
            if judge(failure.error, idempotent=codec.idempotent, budget=self._budget) is Verdict.FINAL:
                return _final(failure, in_doubt)
            in_doubt = in_doubt or failure.error.execution is Execution.MAYBE
            attempts += 1
            tried |= {node_id}
            nodes, now = pool(), self._loop.time()
            self._failovers[codec.name] += 1

    async def deliver_queued(self, message: Any, route: "Route", headers: dict[str, str] | None) -> CatgaResult[Any]:
        """Carry a message to a node that the broker picks, and to another where that is safe, like `deliver`."""
        codec = route.codec
        deadline = self._loop.time() + route.timeout
        self._budget.deposits += 1
        call: Call | None = None
        attempts, in_doubt = 1, False
        while True:
            if not await self._linked(deadline):
                return Failure(_no_link(), ResultMetadata("", attempts))
            now = self._loop.time()
            taker: list[str] = []
            try:
                call = self._call(message, codec, headers, deadline - now, call)
                to = self._client.queue(queue(self._prefix, codec.name))
                outcome: Outcome = _expired()
                if now < deadline:
                    outcome = await self._client.begin(to, call, now, deadline, codec.idempotent, taker)
                result = _result(codec, outcome, taker[0] if taker else "", attempts)
            except asyncio.CancelledError:
                self._give_up(call)
                raise
            except CatgaError as error:  # the encoder, or the decoder of the value
                return Failure(error, ResultMetadata("", attempts))
            if isinstance(result, Success):
                return result
            verdict = judge(result.error, idempotent=codec.idempotent, budget=self._budget)
            if verdict is Verdict.FINAL or attempts >= QUEUE_ATTEMPTS:
                return _final(result, in_doubt)
            if type(result.error) is ClusterError and not await self._pause(result, deadline):
                return _final(result, in_doubt)
            in_doubt = in_doubt or result.error.execution is Execution.MAYBE
            attempts += 1
            self._failovers[codec.name] += 1

    def _call(self, message: Any, codec: Codec, headers: dict[str, str] | None, ttl: float, last: Call | None) -> Call:
        """The frame of the next attempt, after `last`."""
        if last is None:
            body, key = encode(message), 0
            if len(body) > SMALL:
                self._check_size(message, len(body))
            if headers:
                _check_headers(headers)
        else:
            body, key = last.body, last.key or last.id
        return Call(next(self._client.ids), codec.name, ttl, body, key, headers)

    def _give_up(self, call: Call | None) -> None:
        if call is not None:
            self._client.give_up(call.id)

    def _endpoint(self, codec: Codec, headers: dict[str, str] | None) -> Endpoint | None:
        """What runs such a message here."""
        return self._server.endpoint(codec.name, headers)

    async def _pause(self, failure: Failure | None, deadline: float) -> bool:
        """All candidates were tried: whether another round makes sense, after a pause."""
        if failure is None or isinstance(failure.error, OverloadedError | HandlerNotFoundError):
            return False
        if self._client.closed:
            return False
        left = deadline - self._loop.time()
        if left <= 0:
            return False
        await asyncio.sleep(min(left, random.uniform(0.02, MAX_PAUSE)))
        return self._loop.time() < deadline  # if not, the last failure says more than that

    async def _without_link(self, route: "Route", headers: dict[str, str] | None, deadline: float) -> Candidates:
        """The link is down: this node itself, if it is a candidate; else wait for the link."""
        me = self._node_id
        here = route.pool().only(me, lambda node: node.node_id == me)
        if here and self._endpoint(route.codec, headers) is not None:
            return here
        return route.pool() if await self._linked(deadline) else Candidates()

    async def _linked(self, deadline: float) -> bool:
        """Wait for the link; whether it came up in time."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
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
        waits: an empty pool is waited for until the deadline, unless this node itself is leaving.
        is_queued: the broker picks the node, not the strategy.
    """

    codec: Codec
    pool: Pool
    strategy: RoutingStrategy
    timeout: float
    nobody: Callable[[str], CatgaError] | None = None
    is_queued: bool = False
    waits: bool = False


def _result(codec: Codec, outcome: Outcome | CatgaResult[Any], node_id: str, attempts: int) -> CatgaResult[Any]:
    """What an attempt came to, with its metadata."""
    if type(outcome) is Reply:
        return Success(codec.decode_response(outcome.body), ResultMetadata(node_id, attempts))
    if isinstance(outcome, CatgaError):
        return Failure(outcome, ResultMetadata(node_id, attempts))
    result = cast("CatgaResult[Any]", outcome)
    if attempts > 1:
        result = msgspec.structs.replace(result, metadata=ResultMetadata(node_id, attempts))
    return result


def _final(failure: Failure, in_doubt: bool) -> Failure:
    """The failure that the caller gets: in doubt if any attempt was. A bare `ClusterError` told of one node's
    trouble; in the end, it is that no node was available."""
    error = failure.error
    if type(error) is ClusterError:
        error = NoNodeAvailableError(str(failure.error))
        error.__cause__ = failure.error
        error.execution = failure.error.execution
    if in_doubt and error.execution is Execution.NO:
        error.args = (f"{error.message}; an earlier attempt may have been executed",)
        error.execution = Execution.MAYBE
    return Failure(error, failure.metadata)


def _check_headers(headers: dict[str, str]) -> None:
    """An interceptor filled them in. Raises `InvalidMessageError` for what nobody could read."""
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidMessageError(f"the header {name!r} is {value!r}: headers are text, both name and value")


def _expired() -> CatgaError:
    error = CatgaTimeoutError("the deadline passed before the request could be sent")
    error.execution = Execution.NO
    return error


def _no_link() -> CatgaError:
    error = CatgaTimeoutError("the link to the broker was down until the deadline")
    error.execution = Execution.NO
    return error
