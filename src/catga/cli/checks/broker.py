"""The broker alone, before any node is looked at."""

from collections.abc import AsyncIterator
from urllib.parse import urlsplit

from catga.backends import check_url, schemes
from catga.cli.checks import Finding, Level
from catga.cli.options import Where


async def examine(where: Where) -> AsyncIterator[Finding]:
    """Findings, as they come. The first is of the check "reachable"."""
    try:
        check_url(where.url)
    except ValueError as error:
        yield Finding("reachable", Level.PROBLEM, str(error), "mend the URL")
        return
    scheme = urlsplit(where.url).scheme
    if scheme not in schemes():
        known = ", ".join(f"{name}://" for name in sorted(schemes()))
        yield Finding("reachable", Level.PROBLEM, f"no backend for {scheme}://", f"use one of {known}")
        return
    try:
        if scheme in ("nats", "tls"):
            from catga.cli.checks import nats as checks
        elif scheme in ("redis", "rediss"):
            from catga.cli.checks import redis as checks  # type: ignore[no-redef]
        else:
            return
    except ModuleNotFoundError as error:
        extra = "nats" if scheme in ("nats", "tls") else "redis"
        text = f"{scheme}:// needs {error.name}, which is not installed"
        yield Finding("reachable", Level.PROBLEM, text, f"pip install 'catga[{extra}]'")
        return
    async for finding in checks.examine(where):
        yield finding


def version_finding(name: str, version: str, oldest: tuple[int, ...]) -> Finding:
    """Whether the server is new enough."""
    numbers = tuple(int(part) for part in version.split("-")[0].split(".")[:2] if part.isdecimal())
    text = f"{name} {version}"
    if numbers and numbers < oldest:
        wanted = ".".join(map(str, oldest))
        return Finding("version", Level.WARNING, text, f"catga is tested with {wanted} and later: upgrade the server")
    return Finding("version", Level.OK, text)


def round_trip_finding(seconds: float) -> Finding:
    """Whether the broker is near."""
    text = f"{seconds * 1000:.2f} ms to the broker (median of 5)"
    if seconds > 0.1:
        return Finding("round trip", Level.WARNING, text, "every call pays this four times: move nearer to the broker")
    return Finding("round trip", Level.OK, text)
