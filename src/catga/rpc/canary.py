"""A canary: does the broker still tell when nobody listens?

A client that is subscribed to everything makes every message find a listener, and then the broker reports nobody's
death. So a ping to a subject that nobody can know has to bounce, now and then.
"""

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import Callable
from random import uniform

from catga.abc import ExactCounting, Transport

logger = logging.getLogger("catga.rpc")

INTERVAL = 10.0
"""Seconds between two flights, give or take a fifth."""
PATIENCE = 1.0
"""Seconds that the bounce has."""
MISSES = 2
"""Flights in a row that do not bounce, until that counts."""


class Canary:
    """Tests the broker's word that nobody listens.

    Args:
        prefix: of the cluster's subjects.
        send: sends a ping to a subject.
        echo: sends a ping to this node itself: a flight counts as missed only if that came back.
        counters: ``missing_bounces`` is counted there.
    """

    def __init__(
        self,
        transport: Transport,
        prefix: str,
        *,
        send: Callable[[str], None],
        echo: Callable[[], None],
        counters: Counter[str],
    ) -> None:
        self.bounces_work = True
        """Whether the broker tells when nobody listens, as far as known."""
        self.bounces = 0
        """Flights that bounced."""
        self._transport = transport
        self._prefix = prefix
        self._send = send
        self._echo = echo
        self._counters = counters
        self._subject = ""  # of the flight under way
        self._echoed = False
        self._misses = 0
        self._timer: asyncio.TimerHandle | None = None

    def fly(self) -> None:
        """Start now, and go on until `close`."""
        self.close()
        self._subject, self._echoed = f"{self._prefix}.inbox.canary.{secrets.token_urlsafe(16)}", False
        self._send(self._subject)
        self._echo()
        self._timer = asyncio.get_running_loop().call_later(PATIENCE, self._judge)

    def close(self) -> None:
        """Stop."""
        self._subject = ""
        if self._timer is not None:
            self._timer.cancel()

    def bounced(self, subject: str) -> None:
        """Nobody listened on that subject."""
        if subject != self._subject:
            return
        self._subject, self._misses = "", 0
        self.bounces += 1
        if not self.bounces_work:
            self.bounces_work = True
            logger.info("the broker tells again when nobody listens")

    def refused(self, subject: str) -> None:
        """The broker did not take that message, or some to that subject: the flight says nothing."""
        if subject == self._subject:
            self._subject = ""

    def echoed(self) -> None:
        """A ping to this node itself has come back."""
        self._echoed = True

    def _judge(self) -> None:
        wait = INTERVAL * uniform(0.8, 1.2)
        if self._subject:  # else it bounced
            self._misses += self._echoed  # else it was this node that did not hear: that says nothing
            if self._misses < MISSES:
                wait = 0.0
            elif self._echoed:
                self._missing()
        self._timer = asyncio.get_running_loop().call_later(wait, self.fly)

    def _missing(self) -> None:
        self._counters["missing_bounces"] += 1
        if not self.bounces_work:
            return
        self.bounces_work = False
        logger.warning(
            "the broker does not tell when nobody listens: crashed nodes are found late. Look for a client that is "
            "subscribed to '%s.>' (NATS) or '*' (Redis, PSUBSCRIBE), or for no_header_support in its settings",
            self._prefix,
        )
        if isinstance(self._transport, ExactCounting):
            self._transport.count_exactly()
