"""Watches source files by their times: nothing to install, works on every file system."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

INTERVAL = 0.5
SKIPPED = {"__pycache__", "node_modules", "site-packages", ".git", ".venv", "venv"}


def times(folder: Path) -> dict[Path, int]:
    """Each .py file below `folder`, and when it was changed."""
    found: dict[Path, int] = {}
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in SKIPPED and not name.startswith(".")]
        for path in (Path(parent, name) for name in files if name.endswith(".py")):
            with suppress(OSError):  # deleted in between
                found[path] = path.stat().st_mtime_ns
    return found


async def changes(folder: str) -> AsyncIterator[Path]:
    """One of the files that changed, came or went, whenever some did."""
    root = Path(folder)
    before = await asyncio.to_thread(times, root)
    while True:
        await asyncio.sleep(INTERVAL)
        now = await asyncio.to_thread(times, root)
        different = sorted(path for path, _ in now.items() ^ before.items())
        before = now
        if different:
            yield different[0]
