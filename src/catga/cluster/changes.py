"""What messages wait for that cannot go on now."""

import asyncio


class Changes:
    """Wakes those who wait at a change.

    Args:
        delay: seconds in which several changes count as one, as each wakes everybody who waits.
    """

    def __init__(self, delay: float = 0.0) -> None:
        self._delay = delay
        self._loop = asyncio.get_running_loop()
        self._next: asyncio.Future[None] | None = None
        self._due: asyncio.TimerHandle | None = None

    def tell(self) -> None:
        """Something changed: whoever waits looks again."""
        if self._next is None:
            return
        if not self._delay:
            self._wake()
        elif self._due is None:
            self._due = self._loop.call_later(self._delay, self._wake)

    async def next(self, deadline: float) -> bool:
        """Wait for the next change. Returns whether it came before `deadline`, in the loop's time."""
        if self._next is None:
            self._next = self._loop.create_future()
        await asyncio.wait([self._next], timeout=max(deadline - self._loop.time(), 0.0))
        return self._loop.time() < deadline

    def _wake(self) -> None:
        waited, self._next, self._due = self._next, None, None
        if waited is not None:
            waited.set_result(None)
