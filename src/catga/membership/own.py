"""This node's own life: what it does when others know another life of its id, or believe that it has ended."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Protocol

import msgspec

from catga.abc import Departure, Sighting
from catga.errors import ClusterError
from catga.membership.chores import Chores
from catga.membership.hearing import HearingClock
from catga.membership.view import View
from catga.node import NEWEST, OUTGROWABLE, LeftReason, NodeInfo

logger = logging.getLogger("catga.membership")

RIVAL_PINGS = 3
"""Pings that a newer incarnation of this node's id may leave unanswered until it counts as another process."""
OUTGROWTH = 1_000_000
"""By at most so much a node goes beyond an incarnation of its id."""
INTRODUCED_AGAIN = (2.0, 4.0)
"""Seconds after it joined at which a node announces itself once more: a split may have swallowed the first time."""
INTRODUCTION = 5.0
"""Seconds between two announcements to those who do not know this node."""
JITTER = 0.25


class Host(Protocol):
    """What a node's own life asks of the node."""

    def ping(self, node: NodeInfo, /) -> None: ...
    def bounces_work(self) -> bool: ...
    def test_bounces(self) -> None: ...
    def bounces(self) -> int: ...
    def refusals(self) -> int: ...
    def on_fenced(self, incarnation: int, /) -> None: ...
    async def on_rejoin(self, incarnation: int, /) -> None: ...


class OwnLife:
    """This node's record and incarnation.

    Args:
        record: as it is before the node joins.
        register: announces a record.
        interval: seconds of a probe interval.
    """

    def __init__(
        self,
        record: NodeInfo,
        host: Host,
        view: View,
        hearing: HearingClock,
        *,
        register: Callable[[NodeInfo], Awaitable[None]],
        clock: Callable[[], float],
        chores: Chores,
        interval: float,
        random: random.Random,
    ) -> None:
        self.record = record
        self.joined = False
        self.fenced = False
        self._host = host
        self._view = view
        self._hearing = hearing
        self._register = register
        self._clock = clock
        self._chores = chores
        self._interval = interval
        self._random = random
        self._rival = 0  # a newer incarnation of this node's id
        self._rival_record: Sighting | None = None
        self._unanswered = 0  # pings to the rival
        self._heard: int | None = None  # how much was heard when the rival was pinged, if that is to be judged
        self._refusals = 0  # how often the broker had refused a message when the rival was pinged last
        self._bounces = 0  # how often the broker had told that nobody listens when the rival was pinged first
        self._introducing = False
        self._introduced_at = clock() - INTRODUCTION
        self._refuting = False
        self._refuted_at = clock() - interval
        self._rejoining = False

    def update(self, **fields: object) -> None:
        """Change the record, which others learn when it is registered."""
        self.record = msgspec.structs.replace(self.record, sequence=self.record.sequence + 1, **fields)

    # -- another life of this id ----------------------------------------------------------------------

    def heard_record(self, sighting: Sighting) -> None:
        """Somebody announced a record of this node's id."""
        record = sighting.node
        if record.incarnation > self.record.incarnation:
            self._rival_record = sighting
        if record.incarnation == self.record.incarnation and record.sequence > self.record.sequence:
            self._refute(record.sequence)
        else:
            self.outgrown(record.incarnation)
        if self.fenced:
            self._view.observe(sighting)

    def outgrown(self, incarnation: int) -> None:
        """Somebody knows a newer incarnation of this node's id.

        It is this node's own former life, on a machine whose clock was ahead, or another process. While it
        joins the node outgrows both. Later the broker is asked who listens there: a former life is outgrown,
        a live rival fences this node.
        """
        if not self.record.incarnation < incarnation < NEWEST or self.fenced:
            return
        if self._rejoining:  # it may be the life that is about to begin
            return
        if not self.joined:
            self.record = msgspec.structs.replace(self.record, incarnation=self._beyond(incarnation))
        elif incarnation > self._rival:
            self._rival = incarnation
            self._ask_anew()
            self.ask_rival()

    def replaced(self, incarnation: int) -> None:
        """A newer incarnation of this node's id has answered the ping that was sent to its inbox: it lives."""
        if incarnation > self.record.incarnation:
            self._fence(incarnation)

    def rival_unlistened(self, incarnation: int, *, certain: bool) -> None:
        """Nobody listens on the inbox of a newer life of this id; if that is certain, it is a former one."""
        self._ask_anew()
        if certain:
            self._chores.spawn(lambda: self._rejoin(incarnation), "rejoin")

    def link_down(self) -> None:
        """What the rival was asked may be lost."""
        self._ask_anew()

    def ask_rival(self) -> None:
        """Find out whether the newer life of this id lives, once an interval."""
        if self._rival <= self.record.incarnation or self.fenced or self._rejoining:
            return
        if self._host.refusals() != self._refusals:  # perhaps this ping, or what tells whether bounces work
            self._refusals = self._host.refusals()
            self._ask_anew()
        if self._heard is not None and self._hearing.count > self._heard:  # else it is this node that was deaf
            self._unanswered += 1
        is_first = self._heard is None
        if self._unanswered >= RIVAL_PINGS and not self._host.bounces_work():
            # No more is to be found out: should it wake up, it is the older one.
            self.rival_unlistened(self._rival, certain=True)
        elif self._unanswered >= RIVAL_PINGS and self._host.bounces() > self._bounces:  # somebody listens there
            self._fence(self._rival)
        else:
            self._heard = self._hearing.count
            self._host.ping(msgspec.structs.replace(self.record, incarnation=self._rival))
            if is_first:  # what is known of the broker's word is older than this ping
                self._bounces = self._host.bounces()
                self._host.test_bounces()

    def _ask_anew(self) -> None:
        self._unanswered, self._heard = 0, None

    def _fence(self, incarnation: int) -> None:
        if self.fenced:
            return
        self.fenced = True
        logger.critical(
            "fenced: another process has taken this node's id; this one takes no more work",
            extra={"catga_node_id": self.record.node_id, "catga_newer_incarnation": incarnation},
        )
        # What this node answers to joiners must not be that it lives, but who does.
        self._view.observe(Departure(self.record.node_id, self.record.incarnation, LeftReason.CRASHED))
        if self._rival_record is not None:
            self._view.observe(self._rival_record)
        self._host.on_fenced(incarnation)

    def _beyond(self, incarnation: int) -> int:
        """A newer one, which no other process that outgrows the same one takes as well; never one that nobody takes."""
        base = incarnation if incarnation < OUTGROWABLE else self.record.incarnation
        return min(base + self._random.randint(1, OUTGROWTH), NEWEST - 1)

    # -- its own end ----------------------------------------------------------------------------------

    def heard_end(self, end: Departure) -> None:
        """Somebody announced the end of a node of this id."""
        if self.fenced:
            self._view.observe(end)  # the end of the rival
        elif end.incarnation > self.record.incarnation:
            if end.incarnation < OUTGROWABLE:  # else nobody believes it
                self.outgrown(end.incarnation)
        elif end.incarnation < self.record.incarnation or end.sequence < self.record.sequence:
            return  # a former life, or refuted before
        elif not self.joined:
            self.record = msgspec.structs.replace(self.record, incarnation=self._beyond(end.incarnation))
        elif self._rival <= self.record.incarnation:  # else ended by another process, which is being asked
            logger.error(
                "declared %s by the others while alive: telling them otherwise",
                end.reason.value,
                extra={"catga_node_id": self.record.node_id},
            )
            self._refute(end.sequence)

    def heard_of_itself(self, incarnation: int, ended: int) -> None:
        """A member told what it knows of this node.

        Args:
            incarnation: the newest that it knows, 0 if none.
            ended: the sequence up to which it has buried that one; -1 if it has not.
        """
        if incarnation > self.record.incarnation:
            self.outgrown(incarnation)
        elif incarnation < self.record.incarnation:
            self.introduce()
        elif ended >= self.record.sequence and self.joined:
            self._refute(ended)
        elif ended >= 0:  # it has missed the refutation
            self.introduce()

    def introduce(self, *, later: bool = False) -> None:
        """Announce this node again, as somebody does not know it: once for all who do not, and not too often.

        Args:
            later: as it has just joined.
        """
        if not self.joined or self.fenced or self._introducing:
            return
        wait = self._introduced_at + INTRODUCTION - self._clock()
        delay = self._random.uniform(*INTRODUCED_AGAIN) if later else max(wait, 0.0) + self._random.uniform(0.0, JITTER)
        self._introducing = True
        self._chores.spawn(lambda: self._introduce(delay), "introduction")

    async def _introduce(self, delay: float) -> None:
        try:
            await asyncio.sleep(delay)
            self._introduced_at = self._clock()
            if not self.fenced:
                with suppress(ClusterError):  # without a link; the node is announced when it is back
                    await self._register(self.record)
        finally:
            self._introducing = False

    def _refute(self, sequence: int) -> None:
        """A record of this very life that is not this node's, or its end, hides the true record: go beyond."""
        if not self.joined or self.fenced:
            return
        if sequence < NEWEST:
            self.record = msgspec.structs.replace(self.record, sequence=sequence + 1)
            self._view.observe(Sighting(self.record))
            if not self._refuting:  # else it is told with what is about to leave
                self._refuting = True
                self._chores.spawn(self._announce_refutation, "refuting")
        else:
            incarnation = self.record.incarnation
            self._chores.spawn(lambda: self._rejoin(incarnation), "rejoin")

    async def _announce_refutation(self) -> None:
        """At once, but not more often than once an interval, whatever is claimed."""
        try:
            await asyncio.sleep(max(self._refuted_at + self._interval - self._clock(), 0.0))
            self._refuted_at = self._clock()
        finally:
            self._refuting = False
        if not self.fenced:
            await self._register(self.record)

    async def _rejoin(self, ended: int) -> None:
        """Live on under an incarnation beyond the one that ended, as soon as that has an inbox.

        One at a time: of two, the later might end below the earlier, and take it for another process.
        """
        if ended < self.record.incarnation or self.fenced or self._rejoining:
            return
        self._rejoining = True
        try:
            incarnation = self._beyond(ended)
            await self._open_inbox(incarnation)
        finally:
            self._rejoining = False
        if self.fenced:
            return
        self._rival = 0
        self.record = msgspec.structs.replace(self.record, incarnation=incarnation, sequence=0)
        self._view.observe(Sighting(self.record))
        await self._register(self.record)

    async def _open_inbox(self, incarnation: int) -> None:
        while True:
            try:
                return await self._host.on_rejoin(incarnation)
            except ClusterError as error:
                logger.warning("could not open a new inbox; it is tried again", extra={"catga_error": repr(error)})
                await asyncio.sleep(self._interval)
