"""What a node does in the background: steps that must go on though one of them fails."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from catga.errors import ClusterError

logger = logging.getLogger("catga.membership")

Step = Callable[[], Awaitable[None]]


class Chores:
    """Background tasks of one node. A failure of a step is told once, and so is its end.

    Args:
        owner: the node's id, for the names of the tasks.
        random: spreads the repetitions.
    """

    def __init__(self, owner: str, random: random.Random) -> None:
        self._owner = owner
        self._random = random
        self._tasks: set[asyncio.Task[None]] = set()
        self._failing: set[str] = set()

    def every(self, interval: float, step: Step, name: str, *, jitter: float = 0.2) -> None:
        """Run `step` again and again, `interval` seconds apart, give or take the share `jitter`."""

        async def loop() -> None:
            while True:
                await asyncio.sleep(interval * self._random.uniform(1 - jitter, 1 + jitter))
                await self._guard(step, name)

        self._start(loop(), name)

    def spawn(self, step: Step, name: str) -> None:
        """Run `step` once."""
        self._start(self._guard(step, name), name)

    async def stop(self) -> None:
        """End them all."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _guard(self, step: Step, name: str) -> None:
        try:
            await step()
        except Exception as error:
            if name not in self._failing:
                self._failing.add(name)
                logger.warning(
                    "%s fails; it is tried again",
                    name,
                    extra={"catga_error": repr(error)},
                    exc_info=not isinstance(error, ClusterError),
                )
        else:
            if name in self._failing:
                self._failing.discard(name)
                logger.info("%s works again", name)

    def _start(self, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(coroutine, name=f"catga-{name}-{self._owner}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
