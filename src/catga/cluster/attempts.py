"""A message under way: the job, and its attempts at single nodes."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import msgspec

from catga.abc import RoutingStrategy
from catga.cluster.outliers import NO_TRIAL, Record
from catga.cluster.table import Pool
from catga.codec import Codec
from catga.errors import (
    CatgaError,
    CatgaTimeoutError,
    ClusterError,
    Execution,
    MaybeExecutedError,
    NoNodeAvailableError,
    settle_doubt,
)
from catga.result import CatgaResult, Failure, ResultMetadata, Success
from catga.routing import NodeStats
from catga.rpc.destinations import Destination, Outcome
from catga.rpc.wire import Call, Reply


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

    def unknown(self) -> CatgaError | None:
        """The error for a message that is not even tried, as nobody handles it."""
        if self.nobody is None or self.is_queued or self.pool():
            return None
        return self.nobody(self.codec.name)


class Attempt(msgspec.Struct, eq=False):
    """One try at one node.

    Attributes:
        end: how it ends; what is known of it meanwhile may come first (`catga.rpc.destinations.Silent`).
        node_id: empty for a queue.
        to: where the call went; None if it runs here.
        call_id: of the call that went over the bus.
        stats: the node's; None for a queue.
        started: as returned by ``stats.started()``.
        trials: what it decides: whether an outlier comes back.
        is_hedge: it runs beside another, and was paid for.
        taker: gets the id of the node that took the call from a queue.
    """

    end: "asyncio.Future[Any]"
    node_id: str
    to: Destination | None = None
    call_id: int = 0
    stats: NodeStats | None = None
    started: float = 0.0
    trials: tuple[Record, ...] = NO_TRIAL
    is_hedge: bool = False
    taker: list[str] | None = None

    @property
    def is_lost(self) -> bool:
        """Whether its node is gone, or answers nobody."""
        return self.to is not None and self.to.is_lost


class Job(msgspec.Struct, eq=False):
    """A message that needs more than one undisturbed attempt.

    Attributes:
        deadline: in the loop's time.
        attempts: made so far, the one that comes next included.
        call: the newest that went over the bus.
        tried: ids of the nodes that it went to in this round through the candidates.
        failure: of the newest attempt that ended.
        in_doubt: an attempt may have been executed.
        at_lost_node: that was at a node that is gone, or answers nobody.
        has_moved: it went on from such a node, which is free of charge once.
        has_waited: there was no node for it.
        open: the attempts under way.
    """

    message: Any
    route: Route
    headers: dict[str, str] | None
    deadline: float
    attempts: int = 1
    call: Call | None = None
    tried: frozenset[str] = frozenset()
    failure: Failure | None = None
    in_doubt: bool = False
    at_lost_node: bool = False
    has_moved: bool = False
    has_waited: bool = False
    open: list[Attempt] = []

    def ended(self, attempt: Attempt, outcome: Outcome | CatgaResult[Any]) -> CatgaResult[Any]:
        """The result of one attempt. Raises `CatgaError` for a value that cannot be decoded."""
        metadata = ResultMetadata(attempt.taker[0] if attempt.taker else attempt.node_id, self.attempts)
        if type(outcome) is Reply:
            return Success(self.route.codec.decode_response(outcome.body), metadata)
        if isinstance(outcome, CatgaError):
            return Failure(outcome, metadata)
        result = cast("CatgaResult[Any]", outcome)
        return result if self.attempts == 1 else msgspec.structs.replace(result, metadata=metadata)

    def failed(self, failure: Failure, *, at_lost_node: bool) -> Failure:
        """One attempt failed. Return the failure that stands: an attempt that the deadline let not even leave says less
        than the one before it."""
        if self.failure is None or not _is_unsent(failure.error):
            self.failure, self.at_lost_node = failure, at_lost_node
            self.in_doubt = self.in_doubt or failure.error.execution is Execution.MAYBE
        return self.failure

    def final(self, failure: Failure) -> Failure:
        """The failure that the caller gets: in doubt if any attempt was."""
        error = _named(failure.error)
        if self.in_doubt and error.execution is Execution.NO:
            error.args = (f"{error.message}; an earlier attempt may have been executed",)
            error.execution = Execution.MAYBE
        return Failure(settle_doubt(error, idempotent=self.route.codec.idempotent), failure.metadata)


def _is_unsent(error: CatgaError) -> bool:
    return isinstance(error, CatgaTimeoutError) and error.execution is Execution.NO


def _named(error: CatgaError) -> CatgaError:
    """A `ClusterError` without a code of its own told of the trouble of one node, or of the link. Return what that
    comes to for the caller, with it as the cause. What a handler raised stays as it is."""
    if error.code != ClusterError.code or error.execution is Execution.ANSWERED:
        return error
    cls = NoNodeAvailableError if error.execution is Execution.NO else MaybeExecutedError
    named = cls(error.message, details=dict(error.details))
    named.__cause__ = error
    return named
