"""What the broker refused is sent again, with back-off: permissions return, and so does room on a disk."""

import asyncio
import random
from collections.abc import Callable

import msgspec

FIRST, LONGEST = 0.2, 2.0
"""Seconds before an attempt: each pause is twice the last one."""
PATIENCE = 30.0
"""Seconds of refusals after which nothing is sent again."""
MAX_SUBJECTS = 1_000


class _Refused(msgspec.Struct):
    since: float
    pause: float
    tried_at: float = 0.0
    timer: asyncio.TimerHandle | None = None


class Again:
    """Calls ``send(subject)`` some time after messages to `subject` were refused."""

    def __init__(self, send: Callable[[str], None]) -> None:
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._refused: dict[str, _Refused] = {}

    def later(self, subject: str) -> None:
        """Send to `subject` again after a pause, unless it has been refused for too long."""
        now = self._loop.time()
        found = self._refused.get(subject)
        if found is None or (found.timer is None and now - found.tried_at > 2 * LONGEST):  # it went well since
            if found is None and not self._has_room():
                return
            found = self._refused[subject] = _Refused(now, FIRST)
        if found.timer is not None:
            return
        if now - found.since > PATIENCE:
            del self._refused[subject]
            return
        found.timer = self._loop.call_later(found.pause * random.uniform(0.8, 1.0), self._try, subject, found)
        found.pause = min(2 * found.pause, LONGEST)

    def close(self) -> None:
        """Send nothing any more."""
        for each in self._refused.values():
            if each.timer is not None:
                each.timer.cancel()
        self._refused.clear()

    def _try(self, subject: str, refused: _Refused) -> None:
        refused.timer, refused.tried_at = None, self._loop.time()
        self._send(subject)

    def _has_room(self) -> bool:
        if len(self._refused) >= MAX_SUBJECTS:
            self._refused = {subject: each for subject, each in self._refused.items() if each.timer is not None}
        return len(self._refused) < MAX_SUBJECTS
