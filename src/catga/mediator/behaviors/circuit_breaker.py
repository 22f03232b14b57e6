"""No more calls to what keeps failing.

Our own, as it is a page of code: the libraries for it wrap functions rather than a step of a pipeline, bring their
own storage and listeners, or know threads only.
"""

import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from catga.abc import Behavior, CallNext
from catga.errors import CircuitOpenError, InvalidMessageError
from catga.mediator.behaviors.matching import Errors, matching
from catga.messages import wire_name

_SLICES = 10
_IN_A_ROW = 5


class _Recent:
    """The calls of the last `window` seconds, and how many of them failed. Counted in slices of a tenth of the window,
    so that the memory does not grow with the calls."""

    def __init__(self, window: float) -> None:
        self._slice = window / _SLICES
        self._slices: deque[list[int]] = deque()  # number of the slice, calls, failures

    def add(self, now: float, failures: int) -> None:
        """Count one call."""
        number = int(now / self._slice)
        if not self._slices or self._slices[-1][0] != number:
            self._slices.append([number, 0, 0])
            while self._slices[0][0] <= number - _SLICES:
                self._slices.popleft()
        self._slices[-1][1] += 1
        self._slices[-1][2] += failures

    def counts(self) -> tuple[int, int]:
        """Calls and failures, as of the last one that was counted."""
        return sum(each[1] for each in self._slices), sum(each[2] for each in self._slices)


class _Circuit:
    __slots__ = ("failures", "open_until", "probing", "recent", "why")

    def __init__(self, window: float) -> None:
        self.failures = 0  # in a row
        self.recent = _Recent(window)
        self.open_until: float | None = None
        self.probing = False
        self.why = ""


class CircuitBreaker:
    """Refuses what keeps failing with `CircuitOpenError` for `reset` seconds; then lets one call through: if that goes
    well all may pass, else it refuses for as long again.

    Each handler of each message type has a circuit. It opens after `failures` failures in a row; or when, of at least
    `minimum_throughput` calls that ended within the last `window` seconds, the part `failure_ratio` or more has failed:
    for a handler with many calls, some of which go well.

    M. Nygard, "Release It!", 2007. The circuit is this process's. A cancellation does not count, as it may come from
    a caller who left: put `Timeout` inside, so that what hangs is a failure.

    Args:
        failures: in a row. By default 5 without a `failure_ratio`, and with one they do not matter.
        failure_ratio: above 0, up to 1.
        minimum_throughput: calls.
        window, reset: seconds.
        ignore: exceptions that do not count, as the message was to blame, not what handles it: classes, or a function
            that takes an exception and says so.
        clock: seconds, monotonic.

    Raises:
        ValueError: a number that cannot work.
        TypeError: `ignore` has something else than exception classes.
    """

    def __init__(
        self,
        failures: int | None = None,
        *,
        failure_ratio: float | None = None,
        minimum_throughput: int = 20,
        window: float = 30.0,
        reset: float = 30.0,
        ignore: Errors = InvalidMessageError,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if failures is None and failure_ratio is None:
            failures = _IN_A_ROW
        if (failures is not None and failures < 1) or minimum_throughput < 1:
            raise ValueError(f"counts must be at least 1, got {failures} failures, {minimum_throughput} calls")
        if failure_ratio is not None and not 0 < failure_ratio <= 1:
            raise ValueError(f"failure_ratio must be above 0 and at most 1, got {failure_ratio}")
        if not 0 < window < math.inf or not reset > 0:
            raise ValueError(f"window and reset must be positive, got {window} and {reset}")
        self._failures = failures
        self._ratio = failure_ratio
        self._minimum = minimum_throughput
        self._window = window
        self._reset = reset
        self._is_ignored = matching(ignore, "ignore")
        self._clock = clock
        self._circuits: dict[tuple[type, str], _Circuit] = {}

    def bound_to(self, handler: str) -> Behavior:
        """Each handler of an event has its circuit: one that fails does not shut out the others."""

        async def step(message: object, call_next: CallNext[Any, Any]) -> Any:
            return await self._pass(message, call_next, handler)

        return step

    async def __call__(self, message: object, call_next: CallNext[Any, Any]) -> Any:
        return await self._pass(message, call_next, "")

    async def _pass(self, message: object, call_next: CallNext[Any, Any], handler: str) -> Any:
        key = (type(message), handler)
        circuit = self._circuits.get(key) or self._circuits.setdefault(key, _Circuit(self._window))
        is_probe = self._enter(circuit, key[0])
        try:
            value = await call_next(message)
        except Exception as error:
            if not self._is_ignored(error):
                self._failed(circuit, is_probe=is_probe)
            raise
        else:
            self._succeeded(circuit, is_probe=is_probe)
            return value
        finally:
            if is_probe:
                circuit.probing = False  # also when it was cancelled, which says nothing: the next one probes

    def _enter(self, circuit: _Circuit, cls: type) -> bool:
        """Whether this call is the probe; raises if it may not pass."""
        if circuit.open_until is None:
            return False
        left = circuit.open_until - self._clock()
        if left > 0 or circuit.probing:
            raise CircuitOpenError(f"{wire_name(cls)} {circuit.why}", details={"retry_after": max(left, 0.0)})
        circuit.probing = True
        return True

    # Calls that were let in before it opened, and end later, neither prolong nor close it.

    def _succeeded(self, circuit: _Circuit, *, is_probe: bool) -> None:
        if is_probe:
            circuit.open_until = None
        elif circuit.open_until is not None:
            return
        circuit.failures = 0
        self._count(circuit, failures=0)

    def _failed(self, circuit: _Circuit, *, is_probe: bool) -> None:
        if circuit.open_until is None:
            circuit.failures += 1
            self._count(circuit, failures=1)
            circuit.why = self._why_open(circuit)
        if is_probe or (circuit.open_until is None and circuit.why):
            circuit.open_until = self._clock() + self._reset
            circuit.recent = _Recent(self._window)

    def _count(self, circuit: _Circuit, *, failures: int) -> None:
        if self._ratio is not None:
            circuit.recent.add(self._clock(), failures)

    def _why_open(self, circuit: _Circuit) -> str:
        """Why the circuit has to open now; empty if it has not."""
        if self._failures is not None and circuit.failures >= self._failures:
            return f"failed {circuit.failures} times in a row" if circuit.failures > 1 else "failed"
        calls, failures = circuit.recent.counts()
        if self._ratio is not None and calls >= self._minimum and failures >= self._ratio * calls:
            return f"failed {failures} of {calls} times within {self._window:g} s"
        return ""
