"""Findings that every broker has."""

from catga.cli.checks import Finding, Level


def version_finding(name: str, version: str, oldest: tuple[int, ...]) -> Finding:
    """Whether the server is new enough."""
    numbers = tuple(int(part) for part in version.split("-")[0].split(".")[:2] if part.isdecimal())
    text = f"{name} {version}"
    if numbers and numbers < oldest:
        wanted = ".".join(map(str, oldest))
        return Finding("version", Level.WARNING, text, f"catga is tested with {wanted} and later: upgrade the server")
    return Finding("version", Level.OK, text)


def bounce_finding(heard: bool, watcher: str) -> Finding:
    """Whether the broker tells that nobody listens on a subject.

    Args:
        heard: whether it told so of a subject that nobody can know.
        watcher: what would hide it, in the broker's words.
    """
    if heard:
        return Finding("bounces", Level.OK, "the broker tells when nobody listens")
    text = f"a message to nobody is not reported: {watcher}, so crashed nodes are found late"
    return Finding("bounces", Level.WARNING, text, "end it, or let it watch a narrower part of the subjects")


def round_trip_finding(seconds: float) -> Finding:
    """Whether the broker is near."""
    text = f"{seconds * 1000:.2f} ms to the broker (median of 5)"
    if seconds > 0.1:
        return Finding("round trip", Level.WARNING, text, "every call pays this four times: move nearer to the broker")
    return Finding("round trip", Level.OK, text)
