"""How late a batch is: longer on its way than its sender's other batches.

A deadline is the caller's, but clocks differ, so a call carries only what is left. A batch carries its sender's clock
as well. What it took, by the two clocks, is the offset between them and its delay. The least such difference of the
last minute stands for the offset and an undisturbed way. Whatever a batch took beyond that, it waited: in a broker that
was frozen, in a link that stalled, or in front of a node that was stopped. That time is taken off its calls.
"""

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from functools import partial
from statistics import median

MAX_SENDERS = 16_384
WINDOW = 2.0
"""Seconds whose batches count as one measurement."""
WINDOWS = 30
"""Measurements that are kept."""
STEP = 0.5
"""Seconds. Delays that stay longer by so much come of a clock that was set, or of a longer way."""
STEADY = 3
"""Measurements in a row by which delays must have stayed so."""
SPREAD = 0.25
"""Seconds by which these may differ. What has waited comes in a burst, and the first has waited longest."""

_CLOCK: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


boottime: Callable[[], float] = partial(time.clock_gettime, _CLOCK)
"""Seconds since the machine was started, those included for which it was suspended, where the system tells."""


class _Sender:
    __slots__ = ("doubt", "ends", "lasts", "least", "window")

    def __init__(self, took: float, now: float, doubt: float) -> None:
        self.doubt = doubt  # seconds that its first batches may have waited: there are none to compare them with
        self.least = self.window = took
        self.lasts: deque[float] = deque(maxlen=WINDOWS)  # the least of each window
        self.ends = now + WINDOW

    def turn(self, now: float) -> None:
        """The window is over. Senders that are silent for a while have fewer windows."""
        lasts = self.lasts
        lasts.append(self.window)
        recent = list(lasts)[-STEADY:]
        if len(recent) == STEADY and min(recent) > self.least + STEP and max(recent) - min(recent) < SPREAD:
            lasts.clear()
            lasts.append(median(recent))
        self.least = min(lasts)
        self.window = float("inf")
        self.doubt = 0.0
        self.ends = now + WINDOW


class Lateness:
    """Tells how late batches are, by sender.

    Args:
        deaf: seconds without any batch, this node's own pings included, from which on it was deaf.
    """

    def __init__(self, deaf: float = 3.0) -> None:
        self._deaf_after = deaf
        self._senders: OrderedDict[str, _Sender] = OrderedDict()
        self.heard_at = 0.0
        """When a batch came, by this node's `boottime`. `of` sets it."""
        self._deaf = 0.0  # seconds for which none had come before
        self._deaf_ends = 0.0  # when nothing of that time comes any more

    def of(self, sender: str, sent: float, now: float) -> float:
        """Seconds that a batch was longer on its way than the quickest of its sender's.

        Args:
            sender: its reply box.
            sent: the sender's clock when the batch left; 0 if it does not tell.
            now: this node's `boottime`.
        """
        if not sent:
            return 0.0
        if now - self.heard_at > self._deaf_after and self._senders:
            self._deaf, self._deaf_ends = now - self.heard_at, now + WINDOW
        self.heard_at = now
        took = now - sent
        found = self._senders.get(sender)
        if found is None:
            return self._meet(sender, took, now)
        if took < found.window:
            found.window = took
            if took < found.least:
                found.least = took
        late = took - found.least
        if now >= found.ends:
            found.turn(now)
        return late if late > found.doubt else found.doubt

    def _meet(self, sender: str, took: float, now: float) -> float:
        doubt = self._deaf if now < self._deaf_ends else 0.0
        self._senders[sender] = _Sender(took, now, doubt)
        if len(self._senders) > MAX_SENDERS:
            self._senders.popitem(last=False)
        return doubt
