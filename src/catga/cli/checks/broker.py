"""The broker alone, before any node is looked at."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from urllib.parse import urlsplit

from catga.backends import check_url, schemes
from catga.cli.checks import Finding, Level
from catga.cli.options import Where


async def examine(where: Where) -> AsyncGenerator[Finding, None]:
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
    async with aclosing(checks.examine(where)) as findings:
        async for finding in findings:
            yield finding
