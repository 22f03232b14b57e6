"""One message to one of a pool of nodes, with failover: the reliability story in one loop."""

import asyncio
import random
from typing import Any

from catga.abc import RoutingStrategy
from catga.cluster.failover import RetryBudget, Verdict, judge
from catga.cluster.table import Pool
from catga.errors import (
    CatgaError,
    CatgaTimeoutError,
    ClusterError,
    Execution,
    HandlerNotFoundError,
    InvalidMessageError,
    OverloadedError,
)
from catga.messages import is_request
from catga.node import NodeInfo
from catga.result import CatgaResult, Failure, ResultMetadata, Success
from catga.rpc.codec import Codec, encode
from catga.rpc.peer import Peer
from catga.rpc.server import Endpoint
from catga.rpc.subjects import inbox
from catga.rpc.wire import OVERHEAD, Call, Reply

MAX_PAUSE = 0.5
"""Seconds between two rounds through all candidates, at most."""


class Delivery:
    """Carries messages to nodes on behalf of one node.

    Args:
        local: runs a message here.
        link: set while the link to the bus is up.
    """

    def __init__(
        self, peer: Peer, prefix: str, link: asyncio.Event, max_payload: int, *, request_timeout: float
    ) -> None:
        self._peer = peer
        self._prefix = prefix
        self._link = link
        self._max_payload = max_payload
        self._request_timeout = request_timeout
        self._budget = RetryBudget()
        self._loop = asyncio.get_running_loop()

    async def deliver(
        self, message: Any, codec: Codec, pool: Pool, strategy: RoutingStrategy, local: Endpoint | None
    ) -> CatgaResult[Any]:
        """Send `message` to a node of `pool` that `strategy` picks, and to another where that is safe.

        Returns the handler's result, or the failure that ended the attempts; raises only CancelledError.
        """
        deadline = self._loop.time() + (codec.timeout or self._request_timeout)
        self._budget.deposit()
        body: bytes | None = None
        key = 0
        attempts = 0
        tried: set[str] = set()
        error: CatgaError | None = None
        while True:
            nodes = pool()
            untried = [node for node in nodes if node.node_id not in tried] if tried else nodes
            if not untried:
                final = await self._next_round(error, deadline, found=bool(nodes))
                if final is not None:
                    return Failure(final, ResultMetadata("", attempts))
                tried.clear()
                continue
            try:
                node = strategy.select(untried, message)
                attempts += 1
                if node.node_id == self._peer.node_id and local is not None:
                    result = await self._peer.server.run_local(local, message, deadline - self._loop.time())
                    if isinstance(result, Success) or result.error.execution is not Execution.NO:
                        return result if attempts == 1 else _counted(result, node, attempts)
                    error = result.error
                else:
                    if body is None:
                        body = self._encode(message)
                    call_id = self._peer.client.new_id()
                    outcome = await self._call(node, codec, call_id, key, body, deadline)
                    key = key or call_id
                    if type(outcome) is Reply:
                        return Success(self._value(codec, outcome.body), ResultMetadata(node.node_id, attempts))
                    error = outcome  # type: ignore[assignment]
            except CatgaError as raised:  # the key function, the encoder, or the decoder of the value
                return Failure(raised, ResultMetadata("", attempts))
            assert error is not None  # noqa: S101
            if judge(error, idempotent=codec.idempotent, budget=self._budget) is Verdict.FINAL:
                return Failure(error, ResultMetadata(node.node_id, attempts))
            if not await self._link_is_up(deadline):
                return Failure(_no_link(), ResultMetadata("", attempts))
            tried.add(node.node_id)

    async def _call(
        self, node: NodeInfo, codec: Codec, call_id: int, key: int, body: bytes, deadline: float
    ) -> Reply | CatgaError:
        left = deadline - self._loop.time()
        if left <= 0:
            return _expired()
        subject = inbox(self._prefix, node.node_id, node.incarnation)
        to = self._peer.client.destination(node.node_id, node.incarnation, subject)
        call = Call(call_id, codec.name, int(left * 1000) + 1, body, key)
        return await self._peer.client.call(to, call, deadline, idempotent=codec.idempotent)

    async def _next_round(self, error: CatgaError | None, deadline: float, *, found: bool) -> CatgaError | None:
        """All candidates were tried, or there are none. None after a pause, if another round makes sense."""
        if not found or error is None or isinstance(error, OverloadedError | HandlerNotFoundError):
            return error or ClusterError("no node can take this message")
        left = deadline - self._loop.time()
        if left <= 0:
            return error
        await asyncio.sleep(min(left, random.uniform(0.02, MAX_PAUSE)))
        return error if self._loop.time() >= deadline else None

    async def _link_is_up(self, deadline: float) -> bool:
        """Wait for the link rather than burn attempts on it. False once the deadline has passed."""
        if self._link.is_set():
            return True
        try:
            async with asyncio.timeout_at(deadline):
                await self._link.wait()
        except TimeoutError:
            return False
        return True

    def _encode(self, message: Any) -> bytes:
        body = encode(message)
        limit = self._max_payload - OVERHEAD
        if len(body) > limit:
            raise InvalidMessageError(
                f"{type(message).__qualname__} has {len(body)} bytes, the broker's limit is {limit}",
                details={"bytes": len(body), "limit": limit},
            )
        return body

    def _value(self, codec: Codec, body: bytes) -> Any:
        return codec.decode_response(body) if is_request(codec.cls) else None


def _counted(result: CatgaResult[Any], node: NodeInfo, attempts: int) -> CatgaResult[Any]:
    metadata = ResultMetadata(node.node_id, attempts)
    if isinstance(result, Success):
        return Success(result.value, metadata)
    return Failure(result.error, metadata)


def _expired() -> CatgaError:
    error = CatgaTimeoutError("the deadline passed before the request could be sent")
    error.execution = Execution.ANSWERED
    return error


def _no_link() -> CatgaError:
    error = CatgaTimeoutError("the link to the broker was down until the deadline")
    error.execution = Execution.NO
    return error
