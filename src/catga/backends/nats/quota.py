"""How much a node answers to questions about its view."""

import asyncio

RATE = 100.0
"""Questions that are answered per second, and at once after a rest."""
BYTES = 4 * 1024 * 1024.0
"""Bytes of answers per second, and at once after a rest."""


class Quota:
    """Two token buckets, of questions and of bytes: whoever can ask must not make a node flood the bus."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._at = self._loop.time()
        self._questions, self._bytes = RATE, BYTES

    def admit(self) -> bool:
        """Whether a question is answered now. If not, whoever asked asks again, or another member."""
        now = self._loop.time()
        rest, self._at = now - self._at, now
        self._questions = min(self._questions + rest * RATE, RATE)
        self._bytes = min(self._bytes + rest * BYTES, BYTES)
        if self._questions < 1 or self._bytes <= 0:
            return False
        self._questions -= 1
        return True

    def spend(self, size: int) -> None:
        """So many bytes were sent in answer. The debt is paid before the next answer."""
        self._bytes -= size
