"""Arguments that are a number of seconds."""


def check_positive(what: str, seconds: float) -> None:
    """Raise ValueError unless `seconds` is a positive, finite number."""
    if not is_number(seconds) or not 0 < seconds < float("inf"):
        raise ValueError(f"{what} must be a positive number of seconds, got {seconds!r}")


def check_timeout(timeout: float | None) -> None:
    """Raise ValueError unless a verb can have this time-out."""
    if timeout is not None:
        check_positive("timeout", timeout)


def is_number(value: object) -> bool:
    """Whether `value` is a number, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool)
