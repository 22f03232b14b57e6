"""No more calls to what keeps failing.

Our own, as it is eighty lines: the libraries for it wrap functions rather than a step of a pipeline, bring their
own storage and listeners, or know threads only.
"""

import time
from collections.abc import Callable
from typing import Any

from catga.abc import Behavior, CallNext
from catga.errors import CircuitOpenError, InvalidMessageError
from catga.mediator.behaviors.matching import Errors, matching


class _Circuit:
    __slots__ = ("failures", "open_until", "probing")

    def __init__(self) -> None:
        self.failures = 0  # in a row
        self.open_until: float | None = None
        self.probing = False


class CircuitBreaker:
    """After `failures` failures in a row of one handler of a message type, refuses it with `CircuitOpenError` for
    `reset` seconds; then lets one through: if that goes well all may pass, else it refuses for as long again.

    M. Nygard, "Release It!", 2007. The circuit is this process's. A cancellation does not count, as it may come from
    a caller who left: put `Timeout` inside, so that what hangs is a failure.

    Args:
        ignore: exceptions that do not count, as the message was to blame, not what handles it: classes, or a function
            that takes an exception and says so.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        failures: int = 5,
        *,
        reset: float = 30.0,
        ignore: Errors = InvalidMessageError,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if failures < 1 or not reset > 0:
            raise ValueError(f"failures must be at least 1 and reset positive, got {failures} and {reset}")
        self._failures = failures
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
        circuit = self._circuits.setdefault((type(message), handler), _Circuit())
        is_probe = self._enter(circuit)
        try:
            value = await call_next(message)
        except Exception as error:
            if not self._is_ignored(error):
                self._failed(circuit, is_probe=is_probe)
            raise
        else:
            if is_probe or circuit.open_until is None:
                circuit.failures, circuit.open_until = 0, None
            return value
        finally:
            if is_probe:
                circuit.probing = False  # also when it was cancelled, which says nothing: the next one probes

    def _enter(self, circuit: _Circuit) -> bool:
        """Whether this call is the probe; raises if it may not pass."""
        if circuit.open_until is None:
            return False
        left = circuit.open_until - self._clock()
        if left > 0 or circuit.probing:
            raise CircuitOpenError(f"failed {circuit.failures} times in a row", details={"retry_after": max(left, 0.0)})
        circuit.probing = True
        return True

    def _failed(self, circuit: _Circuit, *, is_probe: bool) -> None:
        circuit.failures += 1
        # Calls that were let in before it opened do not prolong it.
        if is_probe or (circuit.open_until is None and circuit.failures >= self._failures):
            circuit.open_until = self._clock() + self._reset
