"""`Peer`: a node on the bus. Ties transport, outbox, client and server together, and sorts what comes in."""

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from typing import Protocol

from catga.abc import Transport
from catga.errors import CatgaError, ClusterError, Execution, InvalidMessageError, OverloadedError
from catga.node import NodeInfo
from catga.rpc import clock
from catga.rpc.again import Again
from catga.rpc.client import Client
from catga.rpc.clock import Lateness
from catga.rpc.deadlines import clock_of
from catga.rpc.outbox import Outbox
from catga.rpc.outcomes import fault_of
from catga.rpc.probes import Knowledge, Probes
from catga.rpc.runner import Endpoint
from catga.rpc.server import Server
from catga.rpc.signing import Signer
from catga.rpc.subjects import check_reply_box, inbox, queue, reply_box
from catga.rpc.wire import OVERHEAD, VERSION, Batch, Fault, Frame, Reply, decode_batch

logger = logging.getLogger("catga.rpc")

GREETED = 8
"""Members, picked at random, that a node greets when it joins, and when its link is back. In a larger cluster the
others are met on the way: a call to one that is not back yet goes elsewhere, free of charge."""
GREET_TIMEOUT = 1.0
ECHO_TIMEOUT = 2.0
"""Seconds until a ping to oneself counts as lost."""
AGAIN = 0.1
"""Seconds until what could not be subscribed to is tried again."""
LATE = 0.05
"""Seconds of delay from which on a batch may have been overtaken."""
COUNTED = (
    "garbage",
    "undeliverable",
    "missing_bounces",
    "refused_by_broker",
    "not_sent",
    "internal_errors",
    "dropped_pongs",
    "deaf",
)
MAX_UNSENT = 10_000
"""Answers that wait for the link to come back."""


class Listener(Knowledge, Protocol):
    """What membership wants to hear of the bus."""

    def heard(self, node_id: str, incarnation: int, load: float, /) -> None: ...
    def unlistened(self, node_id: str, incarnation: int, age: float, /) -> None: ...
    def silent(self, node_id: str, incarnation: int, /) -> None: ...
    def members(self) -> Sequence[NodeInfo]: ...
    def link(self, up: bool, /) -> None: ...
    def closed(self, why: str, /) -> None: ...
    def exits(self, reason: SystemExit | KeyboardInterrupt, /) -> None: ...


class Peer:
    """Implements `catga.abc.TransportListener`.

    Args:
        endpoints: what runs calls, by wire name. Raises `HandlerNotFoundError` for one that nothing runs.
        load: this node's load, for the header of each batch.
        signer: signs what leaves; what comes in without a valid signature is dropped and counted.
        trusts_bounces: as `Client` takes it.
        deaf: seconds without any batch from which on this node was deaf.
    """

    def __init__(
        self,
        transport: Transport,
        node: NodeInfo,
        prefix: str,
        listener: Listener,
        *,
        endpoints: Mapping[str, Endpoint],
        load: Callable[[], float],
        max_concurrency: int,
        max_queue: int,
        signer: Signer | None = None,
        trusts_bounces: bool = True,
        deaf: float = 3.0,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._clock = clock_of(self._loop)
        self.node_id = node.node_id
        self.incarnation = node.incarnation
        self.counters: Counter[str] = Counter(dict.fromkeys(COUNTED, 0))
        """How often what happened, by name."""
        self._transport = transport
        self._prefix = prefix
        self._listener = listener
        self._heard = listener.heard
        self._load = load
        self._reply_box = reply_box(prefix)
        self._check_reply_box = lru_cache(4096)(partial(check_reply_box, prefix))
        self._inbox = ""
        self._addresses: tuple[str, ...] = (self._reply_box,)  # what a signed batch may be meant for
        self._queues: dict[str, None] = {}
        self._doubtful: dict[str, bool] = {}  # subscriptions that may be gone: subject → whether it is shared
        self._signer = signer
        self._trusts_bounces = trusts_bounces
        self._lateness = Lateness(deaf)
        self._outbox = Outbox(
            transport,
            self._wrap,
            on_sent=lambda subject, token, frames: self.client.on_sent(subject, token, frames),
            on_failed=self._on_failed,
            is_wanted=lambda frame: self.client.is_wanted(frame),
            on_waited=lambda frames: self.client.on_waited(frames),
            seal=None if signer is None else signer.seal,
        )
        self._complained = self._closed = False
        self._epoch = 0
        self._verifying: asyncio.Task[None] | None = None
        self._again = Again(self._send_again)
        self._unsent: list[tuple[str, Frame]] = []  # answers that wait for the link
        self.client = Client(
            self._outbox,
            partial(inbox, prefix),
            echo=lambda: self.probes.ping_self(),
            on_silent=listener.silent,
            trusts_bounces=trusts_bounces,
        )
        self.probes = Probes(
            transport,
            self._outbox,
            self.client,
            listener,
            me=lambda: (self.node_id, self.incarnation),
            prefix=prefix,
            reply_box=self._reply_box,
            counters=self.counters,
        )
        self.server = Server(
            self._outbox,
            endpoints=endpoints,
            max_concurrency=max_concurrency,
            max_queue=max_queue,
            max_payload=lambda: transport.max_payload,
            on_exit=listener.exits,
        )

    # -- life -----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect, and take replies. Raises `ClusterError`."""
        await self._transport.start(self)
        await self._transport.subscribe(self._reply_box)

    async def open_inbox(self, incarnation: int) -> None:
        """Take calls under `incarnation`, and no longer under the one before."""
        former, subject = self._inbox, inbox(self._prefix, self.node_id, incarnation)
        if former != subject:
            self._addresses = (subject, self._reply_box, former)  # what was sent to the former one still counts
            await self._transport.subscribe(subject)
            self._inbox, self.incarnation = subject, incarnation
            if former:
                self._doubtful.pop(former, None)
                await self._transport.unsubscribe(former)

    async def close_inbox(self) -> None:
        """Take no more calls: from now on the broker tells callers that nobody listens."""
        await self.close_queues()
        if self._inbox:
            former, self._inbox = self._inbox, ""
            self._doubtful.pop(former, None)
            await self._transport.unsubscribe(former)

    async def open_queues(self, names: Iterable[str]) -> None:
        """Take calls of these wire names from their queues too."""
        for subject in [queue(self._prefix, name) for name in names]:
            if subject in self._queues or self.server.refusing is not None:
                continue
            self._queues[subject] = None
            try:
                await self._transport.subscribe(subject, shared=True)
            except ClusterError:
                self._queues.pop(subject, None)
                raise
        if self.server.refusing is not None:  # since: what was opened after `close_queues` looked
            await self.close_queues()

    async def close_queues(self) -> None:
        """Take no more calls from queues; those that the broker had sent before still come."""
        queues, self._queues = self._queues, {}
        for each in queues:
            self._doubtful.pop(each, None)
        await asyncio.gather(*map(self._transport.unsubscribe, queues))

    async def echo(self) -> None:
        """Return when a ping to this node's own inbox has come back: the subscription works."""
        if self._inbox:  # else it is closed for good, and there is nothing to prove
            await self.probes.echo()

    async def _hears_itself(self) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(ECHO_TIMEOUT):
                await self.echo()
                return True
        return False

    async def flush(self) -> None:
        """Return once everything put so far was handed to the broker."""
        await self._outbox.drained()

    async def close(self) -> None:
        """End all calls, stop the handlers, and disconnect."""
        self._closed = True
        if self._verifying is not None:
            self._verifying.cancel()
        self.probes.canary.close()
        await self.server.close()
        self.client.close()
        self._again.close()
        self._outbox.close()
        await self._transport.aclose()

    @property
    def max_body(self) -> int:
        """The largest message or value, encoded, in bytes, that fits in a batch of its own."""
        return self._transport.max_payload - OVERHEAD

    def counts(self) -> dict[str, int]:
        """How often what happened, by name."""
        return {
            **self.counters,
            "refused": self.server.refused,
            "dropped_expired": self.server.dropped,
            "repeated": self.server.repeated,
            "late_replies": self.client.late,
            "foreign_replies": self.client.foreign,
            "pending_calls": self.client.pending,
            "batches": self._outbox.batches,
        }

    # -- TransportListener ----------------------------------------------------------------------------

    def on_message(self, payload: bytes) -> None:
        """Sort the frames of one batch. Nothing that came over the bus gets past this border."""
        bad: list[str] = []
        try:
            if self._signer is not None:
                payload = self._signer.open(self._addresses, payload)
            batch = decode_batch(payload, bad.append)
            self._check_reply_box(batch.reply_to)
        except InvalidMessageError as error:
            self._garbage(str(error))
            return
        for text in bad:
            self._garbage(text)
        try:
            self._sort(batch)
        except Exception:
            self.counters["internal_errors"] += 1
            logger.exception("a batch could not be handled", extra={"catga_from": batch.node_id})

    def on_undeliverable(self, subject: str, token: int) -> None:
        self.counters["undeliverable"] += 1
        destination, stranger = self.client.on_unlistened(subject, token), self.probes.unlistened(subject)
        life = stranger if destination is None else (destination.node_id, destination.incarnation)
        if subject == self._inbox:
            self._doubt_inbox()
        elif life is not None:
            self._listener.unlistened(*life, self._outbox.age(token))

    def _doubt_inbox(self) -> None:
        """The broker does not know of this node's own subscription: no link is whole without it."""
        if not self._closed and (self._verifying is None or self._verifying.done()):
            self._verifying = asyncio.create_task(self._renew_inbox(), name=f"catga-inbox-{self.node_id}")

    async def _renew_inbox(self) -> None:
        if not self._trusts_bounces and await self._hears_itself():
            return  # somebody else said so
        if self._inbox:  # not closed meanwhile
            self._doubtful[self._inbox], self._verifying = False, None
            self.on_link(False)
            self.on_link(True)

    def on_refused(self, subject: str, token: int, reason: str) -> None:
        self.counters["refused_by_broker"] += 1
        self.probes.refused(subject)
        if self.client.on_refused(subject, token, reason):
            self._again.later(subject)

    def on_doubt(self, subject: str) -> None:
        self.probes.refused(subject)
        self._again.later(subject)

    def _send_again(self, subject: str) -> None:
        """Calls in doubt, and answers and refusals for which their callers still wait."""
        self.client.repeat(subject)
        for answer in self.server.answers.wanted_by(subject):
            with suppress(OverloadedError):
                self._outbox.put(subject, answer)

    def on_link(self, up: bool) -> None:
        self._outbox.link_changed()
        if self._verifying is not None:
            self._verifying.cancel()
            self._verifying = None
        if self._closed:
            return
        if up:
            self._verifying = asyncio.create_task(self._verify(), name=f"catga-verify-{self.node_id}")
        else:
            self.client.link_down()
            self._listener.link(False)

    def on_closed(self, reason: str) -> None:
        why = f"the link to the broker is down for good: {reason}"
        self.client.close(why)
        self._listener.closed(why)

    async def _verify(self) -> None:
        """The link is up again: believe in it once a ping to this node's own inbox has come back.

        What was in flight when it broke is then asked for again, and answers that could not leave go out.
        """
        while True:
            await self._subscribe_again()
            if not await self._hears_itself():
                self.counters["deaf"] += 1
                self._doubtful = {each: False for each in (self._inbox, self._reply_box) if each}
                self._doubtful |= dict.fromkeys(self._queues, True)
            elif self._doubtful:
                await asyncio.sleep(AGAIN)
            else:
                break
        self._epoch += 1
        await self.probes.greet(self._listener.members(), GREET_TIMEOUT)  # they lost the link too, and may not be back
        self._listener.link(True)
        self.probes.canary.fly()
        self.client.link_up()
        unsent, self._unsent = self._unsent, []
        with suppress(OverloadedError):  # their callers ask again
            for subject, frame in unsent:
                self._outbox.put(subject, frame)

    async def _subscribe_again(self) -> None:
        """To what is in doubt; a subject is until that was done, however often the link breaks meanwhile."""
        for subject, shared in list(self._doubtful.items()):
            with suppress(ClusterError):  # the link broke again: the next `on_link` starts anew
                await self._transport.unsubscribe(subject)
                if subject in self._doubtful:  # not given up meanwhile
                    await self._transport.subscribe(subject, shared=shared)
                    if self._doubtful.pop(subject, None) is None:  # given up since
                        await self._transport.unsubscribe(subject)

    # -- inside ---------------------------------------------------------------------------------------

    def _sort(self, batch: Batch) -> None:
        node_id, reply_to, now, late = batch.node_id, batch.reply_to, self._clock(), math.inf
        self._heard(node_id, batch.incarnation, batch.load)
        calls, rest = self.client.on_replies(batch.frames, node_id)  # first: what is answered is not repeated
        self.client.on_alive(node_id, batch.incarnation, batch.epoch, now)
        came = clock.boottime()
        if calls or rest:
            late = self._lateness.of(reply_to, batch.clock, came)
        else:  # how late replies are is nobody's business
            self._lateness.heard_at = came
        if batch.oldest:
            self.server.answers.ended(reply_to, batch.oldest, is_late=late > LATE or not batch.clock)
        for frame in rest:
            self.probes.take(batch, frame)
        if calls:
            self.server.on_calls(calls, reply_to, now, late)
        self._outbox.flush_soon()  # behind those who got their replies: what they call next leaves with it

    def _wrap(self, frames: list[Frame]) -> Batch:
        load, oldest, now = self._load(), self.client.ended_before(), clock.boottime()
        return Batch(VERSION, self.node_id, self.incarnation, load, self._reply_box, frames, self._epoch, oldest, now)

    def _on_failed(self, subject: str, frames: Sequence[Frame], error: CatgaError) -> None:
        self.counters["not_sent"] += len(frames)
        self.client.on_not_sent(frames, error)
        for frame in frames:
            kind = type(frame)
            if isinstance(error, InvalidMessageError):  # it will never leave as it is
                if kind is Reply:
                    with suppress(OverloadedError):  # its caller learns it from the deadline
                        self._outbox.put(subject, fault_of(frame.id, error))  # type: ignore[union-attr]
            elif _is_kept(frame) and len(self._unsent) < MAX_UNSENT:
                self._unsent.append((subject, frame))

    def _garbage(self, text: str) -> None:
        self.counters["garbage"] += 1
        if not self._complained:  # once: a flood of garbage must not become a flood of log lines
            self._complained = True
            logger.warning("garbage on the bus is dropped; from now on it is only counted", extra={"catga_error": text})


def _is_kept(frame: Frame) -> bool:
    """Whether `frame` is sent once the link is back. A refusal is not: its caller asks again, and is refused again."""
    return isinstance(frame, Reply) or (isinstance(frame, Fault) and frame.execution is not Execution.NO)
