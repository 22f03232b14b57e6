"""The calling side: pending calls, their replies, and their early ends.

Every call ends exactly once, with the first of: its reply, a fault from the node, its deadline, the news that nobody
listened, the news that the node is gone, or the caller's cancellation. The end is a value (a `Reply` or a `CatgaError`
with its `Execution`), so that the failover above decides on types. That a node is silent ends nothing, as it may be
busy: calls that may run twice are told (`Silent`), and go on.
"""

import asyncio
import itertools
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

import msgspec

from catga.errors import (
    CatgaError,
    CatgaTimeoutError,
    ClosedError,
    ClusterError,
    Execution,
    InvalidMessageError,
    MaybeExecutedError,
    OverloadedError,
)
from catga.rpc.deadlines import Deadlines
from catga.rpc.destinations import Destination, Destinations, Outcome, Pending, Silent
from catga.rpc.outbox import FULL, Outbox
from catga.rpc.outcomes import error_of
from catga.rpc.wire import Call, Cancel, Fault, Frame, Ping, Pong, Reply

SPLIT = 16
"""Calls to one destination that need not wait for the rest of the turn, if they are half of what it owes: while it
works on one half, this node makes the other. Fewer are not worth a message of their own."""

MAX_STEPS = 4096
"""Ids that `Client.ended_before` looks at, at a time: behind a call that took an hour there may be millions."""


class Client:
    """Calls to other nodes' inboxes.

    Args:
        outbox: where calls leave.
        inbox: the subject on which a node takes calls in a life of it.
        max_pending: calls without a reply; more are refused with `OverloadedError`.
        silence: seconds without a sign of life, while replies are overdue, until a node is pinged, and again
            until it counts as silent.
        echo: sends a ping to this node itself, to tell the others' silence from one's own deafness.
        on_silent: told of (node_id, incarnation) that owes replies and does not answer a ping.
        trusts_bounces: whether only the broker can say that nobody listened. If others can, they must not make a call
            run twice.
    """

    def __init__(
        self,
        outbox: Outbox,
        inbox: Callable[[str, int], str],
        *,
        max_pending: int = 100_000,
        silence: float = 0.15,
        echo: Callable[[], None],
        on_silent: Callable[[str, int], None],
        trusts_bounces: bool = True,
    ) -> None:
        self._outbox = outbox
        self._trusts_bounces = trusts_bounces
        self._max_pending = max_pending
        self._silence = silence
        self._echo = echo
        self._on_silent = on_silent
        self._heard_at = 0.0
        self._loop = asyncio.get_running_loop()
        self.destinations = Destinations(inbox)
        """Where calls go."""
        self._by_subject = self.destinations.by_subject
        self._pending: dict[int, Pending] = {}
        self._deadlines = Deadlines(self._pending, self._timed_out)
        self.ids = itertools.count(1)
        """Each call takes the next for its id."""
        self._newest = 0  # the last that a call took
        self._oldest = 1  # where `ended_before` looked last
        self._watch: asyncio.TimerHandle | None = None
        self._closed = ""
        self.late = 0
        """Replies to calls that had ended before."""
        self.foreign = 0
        """Replies from nodes that had not been asked."""

    @property
    def pending(self) -> int:
        """Calls without a reply."""
        return len(self._pending)

    def ended_before(self) -> int:
        """An id: the calls before it have ended."""
        pending, oldest = self._pending, self._oldest
        if not pending:
            self._oldest = self._newest + 1
            return self._oldest
        newest = min(self._newest, oldest + MAX_STEPS)
        while oldest <= newest and oldest not in pending:  # a dictionary's front is slow to find after many removals
            oldest += 1
        self._oldest = oldest
        return oldest

    @property
    def closed(self) -> str:
        """Why no call can be made any more; empty while calls can be made."""
        return self._closed

    def queue(self, subject: str) -> Destination:
        """The queue behind a shared subject."""
        self._outbox.shared.add(subject)
        return self.destinations.queue(subject, sent=self._max_pending)

    def begin(
        self,
        to: Destination,
        call: Call,
        now: float,
        deadline: float,
        idempotent: bool,
        taker: list[str] | None = None,
    ) -> "asyncio.Future[Outcome]":
        """Send `call`, whose id is the next of `ids`. Returns its end. Who stops waiting for it says so by `give_up`.

        Args:
            now: the loop's time.
            deadline: its end at the latest, in the loop's time.
            taker: is given the id of the node that answers.
        """
        future: asyncio.Future[Outcome] = self._loop.create_future()
        if self._closed:
            future.set_result(ClosedError(self._closed))
            return future
        if len(self._pending) >= self._max_pending:
            text = f"{len(self._pending)} calls wait for replies, the limit is {self._max_pending}"
            future.set_result(OverloadedError(text))
            return future
        self._newest = call_id = call.id
        owed = to.pending
        if not owed:
            self._begin_to_watch(to, now)
        self._pending[call_id] = owed[call_id] = Pending(call, to, future, deadline, now, idempotent, taker)
        if deadline < self._deadlines.due:
            self._deadlines.watch(deadline)
        half = (len(owed) + 1) >> 1
        try:
            self._outbox.put(to.subject, call, SPLIT if half < SPLIT else half if half < FULL else FULL)
        except OverloadedError as error:
            self._end([call_id], error)
        return future

    def give_up(self, call_id: int) -> None:
        """Nobody waits for the end of this call any more. The node is told to cancel the handler."""
        pending = self._take(call_id)
        if pending is not None:
            self._cancel(pending.destination, pending.call)

    def ping(self, to: Destination, nonce: int = 0) -> None:
        """Ask for a sign of life."""
        self._tell(to, Ping(nonce))

    # -- what ends calls ------------------------------------------------------------------------------

    def on_replies(self, frames: Sequence[Frame], node_id: str) -> tuple[list[Call | Cancel], list[Ping | Pong]]:
        """The node answered: take the replies and faults among `frames`. Returns the calls and cancels, and the others.

        Only the node that was called can end a call: ids are easy to guess. Whoever of a queue took it answers it."""
        held = self._pending
        calls: list[Call | Cancel] = []
        rest: list[Ping | Pong] = []
        for frame in frames:
            kind = type(frame)
            if kind is Call:
                calls.append(frame)  # type: ignore[arg-type]
                continue
            if kind is not Reply and kind is not Fault:
                (calls if kind is Cancel else rest).append(frame)  # type: ignore[arg-type]
                continue
            pending = held.get(frame.id)  # type: ignore[union-attr]
            if pending is None:
                self.late += 1
                continue
            to = pending.destination
            if to.node_id != node_id:
                if pending.taker is None:
                    self.foreign += 1
                    continue
                pending.taker.append(node_id)
            outcome: Outcome = frame if kind is Reply else error_of(frame)  # type: ignore[assignment, arg-type]
            call_id = pending.call.id
            del held[call_id], to.pending[call_id]
            try:
                pending.future.set_result(outcome)
            except asyncio.InvalidStateError:  # cancelled, and its caller did not run yet
                continue
        return calls, rest

    def on_alive(self, node_id: str, incarnation: int, epoch: int, now: float) -> None:
        """The node gave a sign of life. A new `epoch` tells that its link was down since the last one."""
        if now - self._heard_at > 2 * self._silence:  # it was this node that was deaf: silence starts to count anew
            for each in self._by_subject.values():
                each.heard_at, each.pinged_at = now, None
        self._heard_at = now
        destination = self.destinations.get((node_id, incarnation))
        if destination is None:
            return
        destination.heard_at, destination.pinged_at, destination.is_lost = now, None, False
        if destination.epoch != epoch:
            former, destination.epoch = destination.epoch, epoch
            if former is not None:
                self._repeat(destination)

    def on_sent(self, subject: str, token: int, frames: Sequence[Frame]) -> None:
        """A batch is about to leave for `subject`."""
        destination = self._by_subject.get(subject)
        if destination is None:
            return
        newest = destination.newest
        first = _first_call(frames, newest)
        if first is not None:
            last = first if len(frames) == 1 else _first_call(reversed(frames), newest) or first
            destination.sent.append((token, first.id, last.id))
            destination.newest = last.id

    def on_unlistened(self, subject: str, token: int) -> Destination | None:
        """Nobody listened when that batch came: its calls never ran. Returns the destination, if it is a node."""
        destination = self._by_subject.get(subject)
        if destination is None:
            return None
        if not destination.node_id:
            text = f"nobody takes from {subject}: no node that handles it was made with queues=True"
            self._untaken(destination, token, text)
            return None
        self._unlistened(destination, _calls_in(destination, token))
        return destination

    def on_refused(self, subject: str, token: int, reason: str) -> bool:
        """The broker refused that batch: its calls never ran. Repeats wait for their turn.

        Returns whether something may have to be sent there again: repeats, or the answers to others' calls."""
        destination = self._by_subject.get(subject)
        if destination is None:
            return True
        text = f"the broker refuses the message: {reason}"
        if not destination.node_id:
            self._untaken(destination, token, text)
            return False
        for call_id in _calls_in(destination, token):
            if not self._repeated(call_id):
                self._end([call_id], ClusterError(text))
        return any(pending.repeated for pending in destination.pending.values())

    def repeat(self, subject: str) -> None:
        """What was sent to `subject` may be lost: ask for it again."""
        destination = self._by_subject.get(subject)
        if destination is not None:
            self._repeat(destination)

    def is_wanted(self, frame: Frame) -> bool:
        """Whether `frame` should still leave: not a call that ended before, as its caller was told that it was never
        sent."""
        return type(frame) is not Call or frame.id in self._pending

    def on_not_sent(self, frames: Sequence[Frame], error: CatgaError) -> None:
        """These frames never left. A repeat goes out again with the link, unless it is too large for ever."""
        is_final = isinstance(error, InvalidMessageError)
        for frame in frames:
            if type(frame) is Call and (is_final or not self._repeated(frame.id)):
                self._end([frame.id], error)

    def on_waited(self, frames: Iterable[Frame]) -> None:
        """These waited, and are about to leave: less is left of the calls' time."""
        now = self._loop.time()
        for frame in frames:
            if isinstance(frame, Call) and (pending := self._pending.get(frame.id)) is not None:
                frame.ttl = pending.deadline - now

    def node_left(self, node_id: str, incarnation: int) -> None:
        """The node is gone: its calls end now, not at their deadlines."""
        for destination in self.destinations.until(node_id, incarnation):
            destination.is_lost = True
            self._lose(destination, f"node {node_id} left before it answered", only_idempotent=False)
            self.destinations.forget(destination)

    def node_unreachable(self, node_id: str, incarnation: int) -> None:
        """The node is silent to this node and to another: calls that may run twice do not wait for it."""
        destination = self.destinations.get((node_id, incarnation))
        if destination is not None:
            destination.is_lost = True
            self._lose(destination, f"node {node_id} answers nobody", only_idempotent=True)

    def node_silent(self, node_id: str, incarnation: int) -> None:
        """The node does not answer: calls that may run twice may go to another node as well."""
        destination = self.destinations.get((node_id, incarnation))
        if destination is None:
            return
        for call_id, pending in list(destination.pending.items()):
            if not pending.sent:
                self._end([call_id], ClusterError(f"node {node_id} does not answer"))
            elif pending.idempotent and not pending.is_doubled and not pending.future.done():
                told, pending.future = pending.future, self._loop.create_future()
                told.set_result(Silent(pending.future))

    def double(self, call_id: int, *, is_doubled: bool = True) -> None:
        """This call goes to another node as well: it need not be told again that its node is silent."""
        pending = self._pending.get(call_id)
        if pending is not None:
            pending.is_doubled = is_doubled

    def link_down(self) -> None:
        """The link is lost: until it is back silence means nothing."""
        for destination in self._by_subject.values():
            destination.pinged_at = None

    def link_up(self) -> None:
        """The link is back. What was in flight may be lost, on its way there or back: ask again.

        The same incarnation of the node runs a repeated call only if the first never came, so this is safe for
        every message.
        """
        for destination in self._by_subject.values():
            destination.heard_at = self._loop.time()
            self._repeat(destination)

    def close(self, why: str = "the node has left the cluster") -> None:
        """End all calls, those of the future included."""
        self._closed = self._closed or why
        for call_id, pending in list(self._pending.items()):
            text = f"{why}: the request may have been executed" if pending.sent else why
            self._end([call_id], _with(ClosedError(text), Execution.MAYBE if pending.sent else Execution.NO))
        self._deadlines.close()
        if self._watch is not None:
            self._watch.cancel()

    # -- inside ---------------------------------------------------------------------------------------

    def _begin_to_watch(self, to: Destination, now: float) -> None:
        to.heard_at, to.pinged_at = now, None
        if self._watch is None:
            self._watch = self._loop.call_later(self._silence, self._look_for_silence)

    def _take(self, call_id: int) -> Pending | None:
        pending = self._pending.pop(call_id, None)
        if pending is not None:
            del pending.destination.pending[call_id]
            if not pending.sent:
                self._outbox.has_unwanted = True
        return pending

    def _end(self, call_ids: Sequence[int], error: CatgaError) -> None:
        for call_id in call_ids:
            pending = self._take(call_id)
            if pending is not None and not pending.future.done():
                pending.future.set_result(error)

    def _repeat(self, destination: Destination) -> None:
        if not destination.node_id:
            self._doubt(destination)
            return
        now = self._loop.time()
        for pending in list(destination.pending.values()):  # a full batch leaves at once, and may fail
            if pending.sent and pending.deadline > now:
                call = pending.call
                pending.call = msgspec.structs.replace(call, key=call.key or call.id, ttl=pending.deadline - now)
                pending.repeated = True
                self._tell(destination, pending.call)
                self._outbox.has_unwanted = True  # should it be answered before the repeat has left

    def _doubt(self, queue: Destination) -> None:
        """What is in flight may be lost. Another node may take a repeat: only for calls that may run twice."""
        doubtful = [i for i, pending in queue.pending.items() if pending.sent and pending.idempotent]
        for call_id in doubtful:  # an error each, as each is raised on its own
            self._end([call_id], MaybeExecutedError("the link broke during the call: it may have been executed"))

    def _untaken(self, queue: Destination, token: int, text: str) -> None:
        """Nobody got that message of the queue. Such news comes in the order of sending: older messages were taken."""
        sent = queue.sent
        while sent and sent[0][0] <= token:
            number, call_id, _ = sent.popleft()
            if number == token:
                self._end([call_id], ClusterError(text))

    def _repeated(self, call_id: int) -> bool:
        pending = self._pending.get(call_id)
        return pending is not None and pending.repeated

    def _unlistened(self, destination: Destination, call_ids: Sequence[int]) -> None:
        for call_id in call_ids:
            if not self._repeated(call_id):  # a repeat waits for the node to come back, or to be declared gone
                self._end([call_id], self._bounced(destination.pending[call_id]))

    def _bounced(self, pending: Pending) -> CatgaError:
        text = f"nobody listens on the inbox of {pending.destination.node_id}"
        if self._trusts_bounces or pending.idempotent:
            return ClusterError(text)
        return MaybeExecutedError(f"{text}, says the broker, or somebody else: the request may have been executed")

    def _lose(self, destination: Destination, text: str, *, only_idempotent: bool) -> None:
        for call_id, pending in list(destination.pending.items()):
            if not pending.sent:
                self._end([call_id], ClusterError(text))
            elif pending.idempotent or not only_idempotent:
                self._end([call_id], MaybeExecutedError(f"{text}: the request may have been executed"))
                self._cancel(destination, pending.call)  # should it wake up, and not have begun

    def _timed_out(self, call_id: int) -> None:
        pending = self._pending.get(call_id)
        if pending is None:
            return
        to = pending.destination
        in_doubt = pending.sent or not to.node_id
        doubt = ": the request may have been executed" if in_doubt else ": it was never sent"
        error = CatgaTimeoutError(f"no answer from {to} within the deadline{doubt}", details={"node_id": to.node_id})
        self._end([call_id], _with(error, Execution.MAYBE if in_doubt else Execution.NO))
        self._cancel(to, pending.call)

    def _cancel(self, to: Destination, call: Call) -> None:
        if to.node_id:
            self._tell(to, Cancel(call.key or call.id))

    def _tell(self, to: Destination, frame: Frame) -> None:
        with suppress(OverloadedError):  # a courtesy: the deadline and the next probe do without it
            self._outbox.put(to.subject, frame)

    def _look_for_silence(self) -> None:
        self._watch = None
        now = self._loop.time()
        owing = [d for d in self._by_subject.values() if d.pending and d.node_id]
        for destination in owing:
            oldest = next(iter(destination.pending.values())).started
            if now - max(destination.heard_at, oldest) < self._silence:
                continue
            if destination.pinged_at is None:
                destination.pinged_at = now
                self.ping(destination)
                self._echo()
            elif now - destination.pinged_at >= 2 * self._silence and self._heard_at > destination.pinged_at:
                destination.pinged_at = now
                self._on_silent(destination.node_id, destination.incarnation)
        if owing:
            self._watch = self._loop.call_later(self._silence, self._look_for_silence)


def _calls_in(destination: Destination, token: int) -> list[int]:
    """The calls that left in that batch, and have no end yet."""
    pending = destination.pending
    for sent, first, last in destination.sent:
        if sent == token:
            few = range(first, last + 1) if last - first < len(pending) else pending
            return [i for i in few if first <= i <= last and i in pending]
    return []


def _first_call(frames: Iterable[Frame], newest: int) -> Call | None:
    """The first of `frames` that is a call and no repeat: one with an id above `newest`."""
    for frame in frames:
        if type(frame) is Call and frame.id > newest:
            return frame
    return None


def _with(error: CatgaError, execution: Execution) -> CatgaError:
    error.execution = execution
    return error
