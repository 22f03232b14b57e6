"""What to do with a call that failed, and what bounds the calls that are made again.

The verdict depends on what is known of the execution alone.
"""

from enum import Enum

from catga.errors import CatgaError, CatgaTimeoutError, Execution


class Verdict(Enum):
    """What becomes of a failed attempt."""

    FINAL = "final"
    """The caller gets the failure."""
    ELSEWHERE = "elsewhere"
    """Another candidate tries it, free of charge."""
    IF_AFFORDABLE = "if affordable"
    """Another candidate tries it if the retry budget allows, or if the node is lost."""


def judge(error: CatgaError, *, idempotent: bool) -> Verdict:
    """Not executed: always elsewhere. Maybe executed: only if it may run twice. Answered: final."""
    if isinstance(error, CatgaTimeoutError):  # there is no time left for another attempt
        return Verdict.FINAL
    if error.execution is Execution.NO:
        return Verdict.ELSEWHERE
    if error.execution is Execution.MAYBE and idempotent:
        return Verdict.IF_AFFORDABLE
    return Verdict.FINAL


class RetryBudget:
    """Retries of requests that may have run, as a share of the traffic, so that they cannot storm.

    Each request deposits `share`; a retry withdraws 1. The balance is at most `reserve`, which is also there
    at the start, for a system with little traffic. As in Finagle's ``RetryBudget``.
    """

    __slots__ = ("_balance", "_reserve", "_share", "deposits")

    def __init__(self, share: float = 0.2, reserve: float = 100.0) -> None:
        self._share = share
        self._reserve = reserve
        self._balance = reserve
        self.deposits = 0
        """Requests since the last retry: add one for each."""

    def withdraw(self) -> bool:
        """Whether one more retry is affordable; takes it if so."""
        self._balance = min(self._balance + self.deposits * self._share, self._reserve)
        self.deposits = 0
        if self._balance < 1:
            return False
        self._balance -= 1
        return True

    def refund(self) -> None:
        """The last retry was refused: it did no work."""
        self._balance = min(self._balance + 1, self._reserve)


class Pace:
    """Spreads what would otherwise happen in one instant: the generic cell rate algorithm (ITU-T I.371).

    Args:
        rate: events per second.
        burst: events that may happen at once.
    """

    __slots__ = ("_burst", "_due", "_interval")

    def __init__(self, rate: float = 1000.0, burst: int = 100) -> None:
        self._interval = 1 / rate
        self._burst = burst * self._interval
        self._due = 0.0

    def wait(self, now: float, until: float) -> float | None:
        """Seconds until the next event may happen, which takes its turn; None if that is not before `until`."""
        due = max(self._due, now - self._burst) + self._interval
        if due >= until:
            return None
        self._due = due
        return max(due - now, 0.0)
