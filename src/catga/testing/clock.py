"""A clock that moves only when it is told to."""

__all__ = ["ManualClock"]


class ManualClock:
    """Stands in for `time.monotonic`: call it for the time, `advance` it.

    Args:
        now: seconds at the start.
    """

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> float:
        """Let `seconds` (0 or more) pass; returns the new time."""
        if seconds < 0:
            raise ValueError(f"time does not go back: seconds must be 0 or more, got {seconds}")
        self.now += seconds
        return self.now
