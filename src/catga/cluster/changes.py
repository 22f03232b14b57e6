"""What messages wait for that cannot go on now."""

import asyncio


class Changes:
    """Wakes those who wait at each change: of the members, of the link, or of the part that this node takes."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._next: asyncio.Future[None] | None = None

    def tell(self) -> None:
        """Something changed: whoever waits looks again."""
        if self._next is not None:
            self._next.set_result(None)
            self._next = None

    async def next(self, deadline: float) -> bool:
        """Wait for the next change. Returns whether it came before `deadline`, in the loop's time."""
        if self._next is None:
            self._next = self._loop.create_future()
        await asyncio.wait([self._next], timeout=max(deadline - self._loop.time(), 0.0))
        return self._loop.time() < deadline
