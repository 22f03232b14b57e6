"""What to do with a call that failed: the answer depends on what is known of its execution alone."""

from enum import Enum

from catga.errors import CatgaError, CatgaTimeoutError, Execution


class Verdict(Enum):
    """What becomes of a failed attempt."""

    FINAL = "final"
    """The caller gets the failure."""
    ELSEWHERE = "elsewhere"
    """Another candidate tries it."""


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


def judge(error: CatgaError, *, idempotent: bool, budget: RetryBudget) -> Verdict:
    """Not executed: always elsewhere, free of charge. Maybe executed: only if it may run twice, from the budget.
    Answered: final."""
    if isinstance(error, CatgaTimeoutError):  # there is no time left for another attempt
        return Verdict.FINAL
    if error.execution is Execution.NO:
        return Verdict.ELSEWHERE
    if error.execution is Execution.MAYBE and idempotent and budget.withdraw():
        return Verdict.ELSEWHERE
    return Verdict.FINAL
