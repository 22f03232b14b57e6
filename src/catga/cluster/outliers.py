"""Outlier ejection: a node whose calls fail is left out for a while. The circuit breaker per node, too.

Suspicion (`catga.membership`) finds nodes that do not answer a ping. This finds those that answer pings, and
nothing else.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Set
from typing import TypeVar

import msgspec

from catga.errors import CatgaError, CatgaTimeoutError, ClusterError, Execution, HandlerError, OverloadedError
from catga.result import CatgaResult, Failure, Success
from catga.routing import Candidates, NodeStats, Stats

logger = logging.getLogger("catga.cluster")

R = TypeVar("R")


class OutlierEjection(msgspec.Struct, frozen=True, kw_only=True):
    """When a node is left out, and for how long. Each sender judges for itself.

    Attributes:
        failures: so many calls in a row that timed out or were lost; 0 turns ejection off.
        base: seconds of the first ejection; each further one in a row is twice as long, ± 20 %.
        longest: seconds, at most.
        share: of the candidates that may be left out at once, rounded down: of two nodes one, of one none.
        handler_errors: count a handler's exceptions too. Off by default: they are answers, and a message that
            no node can handle would have its nodes ejected one by one.

    Raises:
        ValueError: a value that cannot work.
    """

    failures: int = 5
    base: float = 1.0
    longest: float = 60.0
    share: float = 0.5
    handler_errors: bool = False

    def __post_init__(self) -> None:
        if self.failures < 0:
            raise ValueError(f"failures must be 0 (off) or more, got {self.failures}")
        if not 0 < self.base <= self.longest < float("inf"):
            raise ValueError(f"base and longest must be seconds, base the smaller, got {self.base}, {self.longest}")
        if not 0 <= self.share < 1:
            raise ValueError(f"share must be at least 0 and below 1, got {self.share}")


class _Record(msgspec.Struct):
    streak: int = 0  # failures in a row
    times: int = 0  # ejections in a row
    until: float = 0.0
    trial: bool = False  # a call is under way that decides whether the node comes back


class Outliers:
    """What this node makes of the ends of its calls: the statistics, and who is left out.

    A node that is left out comes back through a trial: once its time is over, the next call that the strategy
    gives it decides; until that has ended the node gets no other.

    Args:
        deaf: whether the bus is silent: then a call that failed says nothing of its node.
        clock: seconds, monotonic; the event loop's by default.
    """

    def __init__(
        self,
        settings: OutlierEjection,
        stats: Stats,
        *,
        deaf: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._settings = settings
        self._deaf = deaf
        self.stats = stats
        self._clock = clock or asyncio.get_running_loop().time
        self.suspected: dict[str, _Record] = {}
        """Nodes with a failure and no success after it, by ``node_id``: usually none."""
        self.ejected: dict[str, _Record] = {}
        """Who is left out, or on trial, by ``node_id``: usually nobody."""

    def admit(self, candidates: Candidates, tried: Set[str]) -> Candidates:
        """The candidates but those `tried` and those left out now; rather an outlier than nobody."""
        if not self.ejected:
            return candidates.without(tried)
        out = self.left_out(candidates)
        return candidates.without(tried | out.keys()) or candidates.without(tried)

    def left_out(self, candidates: Candidates) -> dict[str, float]:
        """Ids of the outliers among the candidates, with the seconds until their trial (0: it is under way)."""
        now = self._clock()
        out = [
            (record.until, node_id)
            for node_id, record in self.ejected.items()
            if (record.trial or record.until > now) and candidates.whole.by_id(node_id) is not None
        ]
        allowed = int(self._settings.share * len(candidates.whole))
        return {node_id: max(until - now, 0.0) for until, node_id in sorted(out, reverse=True)[:allowed]}

    def is_trial(self, node_id: str) -> bool:
        """A call to the node starts. Whether it decides about the node's return."""
        record = self.ejected.get(node_id)
        if record is None or record.trial or record.until > self._clock():
            return False
        record.trial = True
        return True

    def ended(self, stats: NodeStats, started: float, result: CatgaResult[object] | None, *, trial: bool) -> None:
        """A call to a node ended.

        Args:
            started: what ``stats.started()`` returned.
            result: None if the call was cancelled.
            trial: what `is_trial` returned.
        """
        failed = False if isinstance(result, Success) else None
        never_ran = False
        if isinstance(result, Failure):
            failed = self.judge(result.error)
            never_ran = result.error.execution is Execution.NO
        is_answer = result is not None and failed is not True
        stats.ended(None if never_ran else started, is_answer)
        self._judged(stats, failed=failed, trial=trial)

    def cleared(self, stats: NodeStats, result: Success[R]) -> Success[R]:
        """Return `result`, a success of a call that `stats` know of: nothing is held against the node any more."""
        self._judged(stats, failed=False, trial=False)
        return result

    def forget(self, node_id: str) -> None:
        """The node left: if one with its id comes, it begins anew."""
        self.stats.pop(node_id, None)
        self.suspected.pop(node_id, None)
        self.ejected.pop(node_id, None)

    # -- inside ---------------------------------------------------------------------------------------

    def _judged(self, stats: NodeStats, *, failed: bool | None, trial: bool) -> None:
        """`failed` is None if the call says nothing of the node."""
        node_id = stats.node_id
        record = self.suspected.get(node_id)
        if trial and record is not None:
            record.trial = False
        if failed is None or self.stats.get(node_id) is not stats:  # the node left, or is another by now
            return
        if not failed:
            if record is not None and (trial or node_id not in self.ejected):
                self._pardon(node_id)
            return
        if record is None:
            record = self.suspected[node_id] = _Record()
        record.streak += 1
        if trial or (node_id not in self.ejected and 0 < self._settings.failures <= record.streak):
            self._eject(stats, record)

    def judge(self, error: CatgaError) -> bool | None:
        """Whether the node failed; None if the error says nothing of it."""
        if isinstance(error, HandlerError):
            return self._settings.handler_errors
        if error.execution is Execution.ANSWERED:  # a handler may raise what befell a call of its own
            return None
        if isinstance(error, OverloadedError) or not isinstance(error, CatgaTimeoutError | ClusterError):
            return None
        if error.execution is Execution.NO and type(error) in (CatgaTimeoutError, ClusterError):
            return None  # it did not get as far as the node: the link, or what the broker refuses
        return None if self._deaf() else True

    def _eject(self, stats: NodeStats, record: _Record) -> None:
        settings = self._settings
        seconds = min(settings.base * 2.0**record.times, settings.longest) * random.uniform(0.8, 1.2)
        record.times = min(record.times + 1, 64)
        record.until = self._clock() + seconds
        self.ejected[stats.node_id] = record
        stats.forget()
        logger.warning(
            "node %s is an outlier for %.1f s: its calls fail or time out, and others are preferred",
            stats.node_id,
            seconds,
            extra={"catga_node_id": stats.node_id, "catga_seconds": round(seconds, 3)},
        )

    def _pardon(self, node_id: str) -> None:
        del self.suspected[node_id]
        if self.ejected.pop(node_id, None) is not None:
            logger.info("node %s is no longer an outlier", node_id, extra={"catga_node_id": node_id})
