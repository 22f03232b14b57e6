"""Outlier ejection: a node whose calls fail is left out for a while. The circuit breaker per node, too.

Suspicion (`catga.membership`) finds nodes that do not answer a ping. This finds those that answer pings, and
nothing else; and those whose answers are failures where the other nodes' are not.
"""

import asyncio
import logging
import math
import random
from collections.abc import Callable, Iterable, Iterator, Set
from typing import TypeVar

import msgspec

from catga.cluster.answers import Answers
from catga.errors import (
    CatgaError,
    CatgaTimeoutError,
    CircuitOpenError,
    ClosedError,
    ClusterError,
    Execution,
    HandlerError,
    HandlerNotFoundError,
    InProgressError,
    InvalidMessageError,
    MissingExtraError,
    OverloadedError,
    StoreError,
)
from catga.node import NodeInfo
from catga.result import CatgaResult, Failure, Success
from catga.routing import Candidates, NodeStats, Stats

logger = logging.getLogger("catga.cluster")

R = TypeVar("R")

MAX_KEYS = 1024
"""Keys of failed messages that are remembered, of one node and message type."""
QUIET = 60.0
"""Seconds without a failure after which the answers to a message type are no longer counted."""

_REFUSALS = (OverloadedError, ClosedError, HandlerNotFoundError)
"""Answers of a node where the handler never ran: the message goes elsewhere."""
_FAULTS = (HandlerError, CircuitOpenError, StoreError, CatgaTimeoutError, ClusterError, MissingExtraError, *_REFUSALS)
"""Answers for which the node may be to blame, or what it needs. What else a handler raises is meant as an answer."""
_OF_THE_MESSAGE = (InvalidMessageError, InProgressError)
"""Answers that tell of the message alone."""


class OutlierEjection(msgspec.Struct, frozen=True, kw_only=True):
    """When a node is left out, and for how long. Each sender judges for itself.

    Attributes:
        failures: so many calls in a row that timed out or were lost; 0 turns ejection off.
        base: seconds of the first ejection; each further one in a row is twice as long, ± 20 %. So is one that comes
            less than `longest` seconds after the node was back.
        longest: seconds, at most.
        share: of the candidates that may be left out at once, rounded down: of two nodes one, of one none.
        relative: leave a node out for a message type that it fails, if the other nodes do not: `failures` answers or
            more are failures or refusals, and at least half more of its latest ones than of theirs. Where all fail
            alike nobody is left out.
        handler_errors: count a handler's exceptions as `failures`, whatever the other nodes do. Off by default: a
            message that no node can handle would have its nodes ejected one by one.

    Raises:
        ValueError: a value that cannot work.
    """

    failures: int = 5
    base: float = 1.0
    longest: float = 60.0
    share: float = 0.5
    handler_errors: bool = False
    relative: bool = True

    def __post_init__(self) -> None:
        if self.failures < 0:
            raise ValueError(f"failures must be 0 (off) or more, got {self.failures}")
        if not 0 < self.base <= self.longest < float("inf"):
            raise ValueError(f"base and longest must be seconds, base the smaller, got {self.base}, {self.longest}")
        if not 0 <= self.share < 1:
            raise ValueError(f"share must be at least 0 and below 1, got {self.share}")


class Record(msgspec.Struct, eq=False):
    """What is held against a node: for all messages, or for one type.

    Attributes:
        streak: failures in a row.
        times: ejections in a row.
        until: when the last of them ends, by the clock.
        on_trial: a call is under way that decides whether the node comes back.
        failing_keys: of messages that failed, with the time, the latest one last.
    """

    streak: int = 0
    times: int = 0
    until: float = 0.0
    on_trial: bool = False
    failing_keys: dict[object, float] = {}

    def has_failed_before(self, key: object, now: float, *, just: bool) -> bool:
        """A message with this key failed. Returns whether one did within a minute; `just`, if it was the last."""
        keys = self.failing_keys
        found = now - keys.get(key, -math.inf) < QUIET and (not just or next(reversed(keys)) == key)
        keys.pop(key, None)
        keys[key] = now
        if len(keys) > MAX_KEYS:
            del keys[next(iter(keys))]
        return found


class Kind(msgspec.Struct, frozen=True, eq=False):
    """What a message was.

    Attributes:
        name: its wire name.
        pool: returns the nodes that it could have gone to.
        key: its key, if that is by what its node was chosen.
    """

    name: str = ""
    pool: Callable[[], Iterable[NodeInfo]] = tuple
    key: object = None

    def ids(self) -> Iterator[str]:
        """Of the nodes that it could have gone to."""
        return (node.node_id for node in self.pool())


_Key = tuple[str, str]
"""A node's id, and the wire name of the messages that it fails: empty for all."""
NO_TRIAL: tuple[Record, ...] = ()
UNKNOWN = Kind()


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
        self.suspected: dict[_Key, Record] = {}
        """What is held against nodes: as long as there is nothing, successes need not be told."""
        self.ejected: dict[_Key, Record] = {}
        """Who is left out, or on trial: usually nobody."""
        self._answers: dict[str, Answers] = {}  # by wire name, of the types with failures lately
        self._last: dict[str, float] = {}  # when the last of these was
        self._former: dict[_Key, tuple[int, float]] = {}  # ejections in a row until the node came back, and when

    def concern(self, name: str) -> bool:
        """Whether a node is left out for messages called `name`."""
        return any(of in ("", name) for _, of in self.ejected)

    def admit(self, candidates: Candidates, tried: Set[str], name: str = "") -> Candidates:
        """The candidates for messages called `name` but those `tried` and those left out now; rather an outlier than
        nobody."""
        if not self.ejected:
            return candidates.without(tried)
        out = self.left_out(candidates, name)
        return candidates.without(tried | out.keys()) or candidates.without(tried)

    def left_out(self, candidates: Candidates, name: str = "") -> dict[str, float]:
        """Ids of the outliers among the candidates, with the seconds until their trial (0: it is under way)."""
        now = self._clock()
        until: dict[str, float] = {}
        for (node_id, of), record in self.ejected.items():
            if (record.on_trial or record.until > now) and of in ("", name) and candidates.whole.by_id(node_id):
                until[node_id] = max(record.until, until.get(node_id, 0.0))
        allowed = int(self._settings.share * len(candidates.whole))
        out = sorted(until.items(), key=lambda item: item[::-1], reverse=True)[:allowed]
        return {node_id: max(end - now, 0.0) for node_id, end in out}

    def trials(self, node_id: str, name: str = "") -> tuple[Record, ...]:
        """A call to the node starts. Returns what it decides: whether the node comes back, usually nothing."""
        now, found = self._clock(), NO_TRIAL
        for key in ((node_id, ""), (node_id, name)) if name else ((node_id, ""),):
            record = self.ejected.get(key)
            if record is not None and not record.on_trial and record.until <= now:
                record.on_trial = True
                found = (*found, record)
        return found

    def ended(
        self,
        stats: NodeStats,
        started: float,
        result: CatgaResult[object] | None,
        *,
        trials: tuple[Record, ...] = NO_TRIAL,
        of: Kind = UNKNOWN,
    ) -> None:
        """A call to a node ended.

        Args:
            started: what ``stats.started()`` returned.
            result: None if the call was cancelled.
            trials: what `trials` returned.
        """
        for record in trials:
            record.on_trial = False
        if isinstance(result, Failure):
            self._failed(stats, started, result.error, trials, of)
            return
        stats.ended(started, answered=result is not None)
        if result is not None and self.suspected:
            self._judged(stats, failed=False, trials=trials)
            self._compared(stats, of, failed=False, trials=trials)

    def cleared(self, stats: NodeStats, result: Success[R], name: str = "") -> Success[R]:
        """Return `result`, a success of a call that `stats` know of: it speaks for the node."""
        record = self.suspected.get((stats.node_id, ""))
        if record is not None:
            self._judged(stats, failed=False)
        answers = self._answers.get(name)
        if answers is not None and answers.count(stats.node_id, failed=False):
            self._rest(name)
        return result

    def forget(self, node_id: str) -> None:
        """The node left: if one with its id comes, it begins anew."""
        self.stats.pop(node_id, None)
        for held in (self.suspected, self.ejected, self._former):
            for key in [key for key in held if key[0] == node_id]:
                del held[key]
        for answers in self._answers.values():
            answers.forget(node_id)

    def judge(self, error: CatgaError) -> bool | None:
        """Whether the node failed, for all messages; None if the error says nothing of that."""
        if isinstance(error, HandlerError):
            return self._settings.handler_errors
        if error.execution is Execution.ANSWERED:  # a handler may raise what befell a call of its own
            return None
        if isinstance(error, OverloadedError) or not isinstance(error, CatgaTimeoutError | ClusterError):
            return None
        if error.execution is Execution.NO and type(error) in (CatgaTimeoutError, ClusterError):
            return None  # it did not get as far as the node: the link, or what the broker refuses
        return None if self._deaf() else True

    # -- inside ---------------------------------------------------------------------------------------

    def _failed(
        self, stats: NodeStats, started: float, error: CatgaError, trials: tuple[Record, ...], of: Kind
    ) -> None:
        failed = self.judge(error)
        never_ran = error.execution is Execution.NO
        measured = None if never_ran else started
        if error.execution is Execution.ANSWERED or isinstance(error, _REFUSALS):
            stats.failed(measured, is_fault=isinstance(error, _FAULTS))
        elif failed:
            stats.failed(measured, answered=False)
        else:
            stats.ended(None)
        self._judged(stats, failed=failed, trials=trials)
        # A node that is full, or drains, sends nobody away with a failure: no more need be held against it.
        is_answer = error.execution is Execution.ANSWERED and not isinstance(error, _OF_THE_MESSAGE)
        if failed or is_answer:  # one that is too slow for a part of its calls fails them one by one, hardly in a row
            self._compared(stats, of, failed=isinstance(error, _FAULTS), trials=trials)

    def _judged(self, stats: NodeStats, *, failed: bool | None, trials: tuple[Record, ...] = NO_TRIAL) -> None:
        """`failed` is None if the call says nothing of the node."""
        key = (stats.node_id, "")
        record = self.suspected.get(key)
        if failed is None or self.stats.get(stats.node_id) is not stats:  # the node left, or is another by now
            return
        is_trial = record is not None and record in trials
        if not failed:
            if record is not None and (is_trial or key not in self.ejected):
                self._pardon(key)
            return
        if record is None:
            record = self._suspect(key)
        record.streak += 1
        if is_trial or (key not in self.ejected and 0 < self._settings.failures <= record.streak):
            self._eject(stats, key, record)

    def _compared(self, stats: NodeStats, of: Kind, *, failed: bool, trials: tuple[Record, ...]) -> None:
        """Count an answer, and see whether the node is worse than the others."""
        settings, node_id = self._settings, stats.node_id
        if self.stats.get(node_id) is not stats:  # the node left, or is another by now
            return
        answers = self._answers.get(of.name)
        if answers is None:
            if not (failed and settings.relative and settings.failures and of.name):
                return
            answers = self._answers[of.name] = Answers(settings.failures)
        key = (node_id, of.name)
        if failed:
            self._fails(stats, key, answers, trials, of)
            return
        record = self.suspected.get(key)
        if record is not None:
            record.failing_keys.pop(of.key, None)  # whatever it was, it passed
        if record is not None and record in trials:
            self._pardon(key)
            answers.forget(node_id)
        elif answers.count(node_id, failed=False):
            self._rest(of.name)

    def _fails(self, stats: NodeStats, key: _Key, answers: Answers, trials: tuple[Record, ...], of: Kind) -> None:
        self._last[of.name] = self._clock()
        record = self.suspected.get(key) or self._suspect(key)
        is_trial = record in trials
        if of.key is not None and record.has_failed_before(of.key, self._clock(), just=is_trial):
            return  # it may fail everywhere, and comes here alone
        answers.count(stats.node_id, failed=True)
        if is_trial:
            if answers.do_others_fail(stats.node_id, of.ids()):
                self._pardon(key)
            else:
                self._eject(stats, key, record)
        elif key not in self.ejected and answers.is_outlier(stats.node_id, of.ids()):
            self._eject(stats, key, record)

    def _rest(self, name: str) -> None:
        """Stop counting the answers to a message type, if there was no failure for long."""
        if self._clock() - self._last[name] < QUIET or any(key[1] == name for key in self.ejected):
            return
        del self._answers[name], self._last[name]
        for key in [key for key in self.suspected if key[1] == name]:
            del self.suspected[key]

    def _suspect(self, key: _Key) -> Record:
        times, since = self._former.get(key, (0, 0.0))
        is_further = bool(times) and self._clock() - since < self._settings.longest
        record = self.suspected[key] = Record(times=times if is_further else 0)
        return record

    def _eject(self, stats: NodeStats, key: _Key, record: Record) -> None:
        settings = self._settings
        seconds = min(settings.base * 2.0**record.times, settings.longest) * random.uniform(0.8, 1.2)
        record.times = min(record.times + 1, 64)
        record.until = self._clock() + seconds
        self.ejected[key] = record
        stats.forget()
        node_id, name = key
        extra = {"catga_node_id": node_id, "catga_seconds": round(seconds, 3)}
        if name:
            text = "node %s is an outlier for %s for %.1f s: it fails them, other nodes do not, and are preferred"
            logger.warning(text, node_id, name, seconds, extra={**extra, "catga_message": name})
            return
        logger.warning(
            "node %s is an outlier for %.1f s: its calls fail or time out, and others are preferred",
            node_id,
            seconds,
            extra=extra,
        )

    def _pardon(self, key: _Key) -> None:
        record = self.suspected.pop(key)
        if self.ejected.pop(key, None) is None:
            return
        self._former[key] = (record.times, self._clock())
        node_id, name = key
        text = f"node %s is no longer an outlier{' for ' + name if name else ''}"
        logger.info(text, node_id, extra={"catga_node_id": node_id})
