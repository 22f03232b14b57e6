"""The answering side: admission, dispatch, replies.

A call is admitted (bounded concurrency, then a bounded queue), refused at once (`OverloadedError`), or dropped because
its caller has given up. A plain function is called right in the receive path, until that has taken a slice of the
loop's turn; a coroutine runs as a task, which its deadline or its caller may cancel. What was refused stays refused.
"""

import asyncio
import contextvars
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter  # the loop's own time has milliseconds only, with uvloop
from typing import Any

from catga.errors import (
    CatgaError,
    CatgaTimeoutError,
    ClosedError,
    ClusterError,
    Execution,
    HandlerNotFoundError,
    MaybeExecutedError,
    OverloadedError,
)
from catga.mediator.nested import MAX_DEPTH, depth_in
from catga.mediator.pipeline import as_catga_error
from catga.mediator.threads import Threads
from catga.result import CatgaResult, Failure, Success
from catga.rpc.answers import Answers, Caller, CallKey, Seen
from catga.rpc.deadlines import Deadlines
from catga.rpc.local import LocalCalls
from catga.rpc.outbox import Outbox
from catga.rpc.outcomes import addressed, fault_of, frame_of
from catga.rpc.patience import HOPE, patience
from catga.rpc.places import Places, refusal
from catga.rpc.refusals import Refusals
from catga.rpc.runner import SLICE, Admitted, Endpoint, OnExit, Runner
from catga.rpc.wire import Call, Cancel, Fault, Reply

logger = logging.getLogger("catga.rpc")

CLOSE_GRACE = 1.0
"""Seconds that cancelled handlers have to end."""


MAX_TTL = 30 * 24 * 3600.0
"""Seconds that a caller can wait, at most."""
MAX_REPEATS = 16
"""Repeats of a call under way that get its answer, the newest: a caller has one, or two."""


class Server:
    """Runs calls that came over the bus.

    Args:
        outbox: where replies leave.
        endpoints: by wire name. Raises `HandlerNotFoundError` for one that nothing handles.
        max_concurrency: coroutine handlers that run at once, local ones included.
        max_queue: admitted calls that wait for one of these places.
        on_exit: told that a handler wants to end the program, in a turn of the loop of its own.
    """

    def __init__(
        self,
        outbox: Outbox,
        *,
        endpoints: Mapping[str, Endpoint],
        max_concurrency: int,
        max_queue: int,
        max_payload: Callable[[], int],
        on_exit: OnExit,
    ) -> None:
        self._outbox = outbox
        self._on_exit = on_exit
        self.endpoints = endpoints
        self._max_payload = max_payload
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._calls: dict[CallKey, Admitted] = {}  # those that run or wait
        self._deadlines = Deadlines(self._calls, self._expired)
        places = self._places = Places(max_concurrency, max_queue, self._start_waiting)
        self._crowded = places.crowded
        most = max_concurrency * (MAX_DEPTH + 1)
        self.threads = Threads(most, hold=places.hold, release=places.free, on_exit=on_exit)
        """In which its blocking handlers run."""
        self.local = LocalCalls(self._places, on_exit)
        """Runs what this node sends to itself."""
        self.answers = Answers()
        """What it answered lately, and to whom."""
        self._refusals = Refusals()
        self._runner = Runner(self._ended, self._too_late, on_exit, outbox.flush_soon)
        self._turn = -1  # of the loop, in which plain functions are called
        self._turn_ends = 0.0  # when they have had their slice of it
        self._turn_is_over = False
        self._closed = False
        self.dropped = 0
        """Calls that nobody waited for any more before they ran."""
        self.repeated = 0
        """Calls that had been made before and were answered without running again."""

    def endpoint(self, name: str, headers: Mapping[str, str] | None) -> Endpoint | None:
        """What runs a message of this wire name that came with these headers; None if nothing does."""
        try:
            endpoint = self.endpoints[name]
        except HandlerNotFoundError:
            return None
        return endpoint.receiving(headers or {}) if endpoint.is_intercepted and endpoint.receiving else endpoint

    @property
    def refusing(self) -> CatgaError | None:
        """Why no calls are taken; None while they are."""
        return self._places.refusing

    @property
    def refused(self) -> int:
        """Calls answered with `OverloadedError`."""
        return self._places.refused

    @property
    def inflight(self) -> int:
        """Calls that run or wait."""
        return self._places.inflight

    @property
    def load(self) -> float:
        """`inflight` over the capacity."""
        places = self._places  # as `inflight` does: every batch tells it
        return (places.busy + places.waiting) / places.limit

    # -- what comes over the bus ----------------------------------------------------------------------

    def on_calls(self, frames: Sequence[Call | Cancel], reply_to: str, now: float, late: float) -> None:
        """Admit, run, or cancel the calls of a batch that came.

        Args:
            reply_to: who made them.
            now: when it came, in the loop's time.
            late: seconds that it waited on its way.
        """
        started, turn = perf_counter(), self._outbox.turn
        if turn != self._turn:
            self._turn, self._turn_ends = turn, started + SLICE
            self._turn_is_over = bool(self._runner.ready)  # calls that are ready go first
        caller, on_call = self.answers.caller(reply_to, now), self._on_call
        caller.late = late
        for frame in frames:
            if type(frame) is Cancel:
                self._on_cancel(frame.id, reply_to)
                continue
            try:
                on_call(frame, caller, now, started)  # type: ignore[arg-type]
            except BaseException as error:  # noqa: BLE001 - each call is its own
                self._on_failed(frame, caller, error)  # type: ignore[arg-type]

    def _on_call(self, call: Call, caller: Caller, now: float, started: float) -> None:
        """Admit and run one call. Raises whatever else comes of it: `_on_failed` takes that.

        Args:
            now: when it came, in the loop's time.
            started: the same by `perf_counter`.
        """
        reply_to = caller.reply_to
        key = (reply_to, call.key or call.id)
        is_newest = call.id > caller.newest
        if is_newest:
            caller.newest = call.id
        if (call.key or not is_newest or key in self._calls) and self._came_before(key, call, caller, is_newest):
            return
        ttl = call.ttl - caller.late
        if not ttl > 0:  # or no number
            self.dropped += 1
            if call.ttl > 0:  # its caller may be wrongly taken for late, by a clock that was set
                raise ClusterError("the request was longer on its way than its time-out")
            return
        if ttl > MAX_TTL:
            ttl = MAX_TTL
        places, endpoint = self._places, self.endpoints.get(call.name)
        if (
            endpoint is None
            or call.headers
            or endpoint.is_intercepted
            or places.refusing is not None
            or places.busy >= places.limit
        ):
            endpoint = self._admit(call, key, ttl, is_newest=is_newest)
        message = endpoint.codec.decode(call.body)
        if endpoint.direct is not None and not self._turn_is_over:
            result = self._context.copy().run(endpoint.direct, message)
            ended = perf_counter()
            endpoint.tally.add(ended - started, type(result) is Success)
            self._answer(key, call.id, result)
            self._turn_is_over = ended > self._turn_ends
            return
        admitted = Admitted(key, call.id, endpoint, message, started, now + ttl, started + HOPE * ttl)
        self._calls[key] = admitted
        if places.busy < self._crowded and call.headers is None:
            self._start(admitted)
        else:
            self._start_or_wait(admitted, depth_in(call.headers), ttl)

    def _on_failed(self, call: Call, caller: Caller, error: BaseException) -> None:
        """`_on_call` raised: its caller gets it."""
        if isinstance(error, SystemExit | KeyboardInterrupt):
            self._loop.call_soon(self._on_exit, error)
            error = as_catga_error(error)
        if not isinstance(error, CatgaError):
            logger.error("a call could not be handled", exc_info=error, extra={"catga_from": caller.reply_to})
            error = as_catga_error(error)
        fault = fault_of(call.id, error)
        if fault.execution is Execution.NO:
            self._refusals.remember(caller, fault)
        self._put(caller.reply_to, fault)

    def _on_cancel(self, call_id: int, reply_to: str) -> None:
        """The caller does not wait any more: cancel the handler."""
        call = self._calls.get((reply_to, call_id))
        if call is None:
            return
        if call.cancelled:  # once is enough: it may be busy putting things in order
            call.instead = None
        elif call.task is not None:
            self._cancel(call, None)
        elif self._places.withdraw(call):
            del self._calls[call.key]
        else:  # it is about to begin
            self._runner.withdraw(call)
            self._finish(call)

    # -- stopping -------------------------------------------------------------------------------------

    def refuse(self, reason: CatgaError, *, own: bool = True) -> None:
        """Take no more calls; those admitted go on. `reason` tells the callers, whose calls go elsewhere.

        Args:
            own: nor those that this node makes to itself.
        """
        self._places.refusing = reason
        if own:
            self.local.refusing = reason

    async def idle(self) -> None:
        """Return once nothing runs or waits."""
        await self._places.idle()

    async def close(self) -> None:
        """Cancel what still runs and wait for its end, once. What only waited is refused."""
        if self._closed:
            return
        self._closed = True
        for waiting in self._places.close():
            del self._calls[waiting.key]
            self._excuse(waiting, ClosedError("the node stopped"))
        running: list[asyncio.Task[None]] = []
        for call in list(self._calls.values()):
            if call.task is None:  # about to begin
                self._runner.withdraw(call)
                self._finish(call)
                self._excuse(call, ClosedError("the node stopped"))
                continue
            error = ClosedError("the node stopped before the handler finished")
            error.execution = Execution.MAYBE
            if not call.cancelled:
                self._cancel(call, error)
            running.append(call.task)
        await self.local.cancel(CLOSE_GRACE)
        if running:  # a handler may hold on to its cancellation: it does not hold the node
            await asyncio.wait(running, timeout=CLOSE_GRACE)
        self._deadlines.close()
        self.local.close()
        self.threads.close()

    # -- inside ---------------------------------------------------------------------------------------

    def _admit(self, call: Call, key: CallKey, ttl: float, *, is_newest: bool) -> Endpoint:
        """What runs the call, if that is not plain to see. Raises what its caller gets instead."""
        try:
            return self._endpoint_for(call, ttl)
        except CatgaError as error:
            if call.key and not is_newest and self.answers.look_up(key) is Seen.FORGOTTEN:
                error.execution = Execution.MAYBE  # this one does not run: the first may have
            raise

    def _endpoint_for(self, call: Call, ttl: float) -> Endpoint:
        places = self._places
        if places.refusing is not None:
            raise refusal(places.refusing)
        endpoint = self.endpoints[call.name]
        if (call.headers or endpoint.is_intercepted) and endpoint.receiving is not None:
            endpoint = endpoint.receiving(call.headers or {})
        if endpoint.direct is not None and not self._turn_is_over:  # it runs now, and needs no place
            return endpoint
        if places.busy >= places.limit and places.is_full(depth_in(call.headers), patience(ttl, endpoint.tally.runs)):
            raise places.overloaded()
        return endpoint

    def _came_before(self, key: CallKey, call: Call, caller: Caller, is_newest: bool) -> bool:
        """Whether what may be a repeat needs no run: it was answered, or will be with the first, or nobody waits."""
        if call.id < caller.oldest:  # it took its time on a link that has broken since
            self.dropped += 1
            return True
        first = self._calls.get(key)
        if first is not None:
            if call.id != first.call_id:
                first.repeats = (*first.repeats[1 - MAX_REPEATS :], call.id)
            self.repeated += 1
            return True
        refusal = self._refusals.look_up(key[0], call.id)
        if refusal is not None:
            self.repeated += 1
            self._put(key[0], refusal)
            return True
        seen = self.answers.look_up(key)
        if seen is Seen.NEVER and call.id > caller.refused:
            return False
        if seen is Seen.NEVER or seen is Seen.FORGOTTEN:
            if is_newest or not call.key:  # another attempt after refusals, or a first one that others overtook
                return False
            if self.endpoints[call.name].codec.idempotent:
                return False
            raise MaybeExecutedError("the request came again, too long after the first to tell whether it ran")
        self.repeated += 1
        answer = addressed(seen, call.id)
        self._put(key[0], answer)
        self.answers.keep(key, answer)
        return True

    def _start(self, call: Admitted) -> None:
        self._places.busy += 1
        if call.deadline < self._deadlines.due:
            self._deadlines.watch(call.deadline)
        self._runner.start(call)

    def _ended(self, call: Admitted, result: CatgaResult[Any] | None) -> float:
        ended = perf_counter()
        if call.cancelled and call.deadline == math.inf and type(result) is Success and call.instead is not None:
            result = Failure(call.instead)  # its caller has given up, and a repeat is to be told the same
        call.endpoint.tally.add(ended - call.started, type(result) is Success)
        if call.began:
            call.endpoint.tally.ran(ended - call.began)
        self._finish(call)
        if result is not None:
            self._answer(call.key, call.call_id, result, call.repeats)
        else:
            self._abandoned(call)
        return ended

    def _too_late(self, call: Admitted) -> None:
        """It has a place, and could not begin in time."""
        self._finish(call)
        self._give_up(call)

    def _give_up(self, call: Admitted) -> None:
        """It does not run: its caller is told, unless that has given up itself."""
        if self._loop.time() >= call.deadline:
            self.dropped += 1
            return
        error = self._places.overdue()
        is_repeat = call.call_id != call.key[1] and call.endpoint.codec.idempotent
        if is_repeat and self.answers.look_up(call.key) is Seen.FORGOTTEN:  # the first may have run
            error.execution = Execution.MAYBE
        caller = self.answers.caller(call.key[0], self._loop.time())
        for call_id in (call.call_id, *call.repeats):
            fault = fault_of(call_id, error)
            self._refusals.remember(caller, fault)
            self._put(caller.reply_to, fault)

    def _finish(self, call: Admitted) -> None:
        del self._calls[call.key]
        places = self._places
        places.busy -= 1  # as `free` does, on the path of every request
        if places.is_awaited:
            places.go_on()

    def _cancel(self, call: Admitted, instead: CatgaError | None) -> None:
        assert call.task is not None  # noqa: S101
        call.cancelled, call.instead = True, instead
        call.task.cancel()
        # A task that is cancelled before its first step never enters `_run`.
        call.task.add_done_callback(lambda _: self._never_began(call))

    def _never_began(self, call: Admitted) -> None:
        if self._calls.get(call.key) is call:
            self._finish(call)
            self._abandoned(call)

    def _abandoned(self, call: Admitted) -> None:
        """It was cancelled, as nobody waited for it; who has asked again since must not wait for ever."""
        for repeat in call.repeats:
            error = MaybeExecutedError("an attempt before was cancelled, and had not ended when this one came")
            self._put(call.key[0], fault_of(repeat, error))

    def _excuse(self, call: Admitted, error: CatgaError) -> None:
        for call_id in (call.call_id, *call.repeats):
            self._put(call.key[0], fault_of(call_id, error))

    def _start_or_wait(self, call: Admitted, depth: int, ttl: float) -> None:
        """It came with headers, or places are few."""
        places = self._places
        call.depth, call.endpoint = depth, places.held(call.endpoint, depth)
        if places.has_place(depth):
            places.tell(depth)
            self._start(call)
            return
        waits = patience(ttl, call.endpoint.tally.runs)
        call.ends, call.deadline = call.deadline, call.deadline - ttl + waits
        places.wait(call)
        if call.deadline < self._deadlines.due:
            self._deadlines.watch(call.deadline)

    def _start_waiting(self, call: Admitted) -> None:
        """A place is free for it."""
        is_late = call.deadline <= self._loop.time()
        call.deadline = call.ends
        if is_late:
            del self._calls[call.key]
            self._give_up(call)
        else:
            call.began = perf_counter()
            self._start(call)

    def _expired(self, key: CallKey) -> None:
        call = self._calls[key]
        if call.task is None:  # it waits for a place, or for its turn
            if self._places.withdraw(call):
                call.deadline = call.ends
                del self._calls[key]
                self._give_up(call)
        elif not call.cancelled:  # else it ends
            call.deadline = math.inf
            self._cancel(call, CatgaTimeoutError("the handler was cancelled at the caller's deadline"))

    def _answer(self, key: CallKey, call_id: int, result: CatgaResult[Any], repeats: tuple[int, ...] = ()) -> None:
        frame = frame_of(call_id, result, self._max_payload)
        try:  # as `_put` does, on the path of every request
            self._outbox.put(key[0], frame)
        except OverloadedError:
            self._dropped_reply(key[0])
        for repeat in repeats:
            frame = addressed(frame, repeat)
            self._put(key[0], frame)
        self.answers.keep(key, frame)

    def _put(self, reply_to: str, frame: Reply | Fault) -> None:
        try:
            self._outbox.put(reply_to, frame)
        except OverloadedError:
            self._dropped_reply(reply_to)

    def _dropped_reply(self, reply_to: str) -> None:
        """The caller learns it from its deadline; to keep the reply would be unbounded."""
        logger.warning("a reply was dropped: the outbox is full", extra={"catga_reply_to": reply_to})
