"""A world in which time is a number, and processes with their own event loops in it. One seed, one history."""

import asyncio
import heapq
import random
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any


class World:
    """The clock, and what is due."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self._due: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0

    def at(self, when: float, call: Callable[..., None], *args: Any) -> None:
        """Call when that time has come; what is due at one time is called in the order of its coming here."""
        self._count += 1
        heapq.heappush(self._due, (max(when, self.now), self._count, call, args))

    def after(self, delay: float, call: Callable[..., None], *args: Any) -> None:
        self.at(self.now + delay, call, *args)

    def run(self, until: float) -> None:
        due = self._due
        while due and due[0][0] <= until:
            self.now, _, call, args = heapq.heappop(due)
            call(*args)
        self.now = until


class Wire:
    """How bad the network is.

    Args:
        loss: share of messages lost.
        twice: share that comes twice.
        late: seconds by which the second may be late.
        delay: seconds each way; up to ``spread`` more on the way to a subscriber.
    """

    def __init__(
        self,
        *,
        loss: float = 0.0,
        twice: float = 0.0,
        late: float = 0.0,
        delay: float = 0.001,
        spread: float = 0.005,
    ) -> None:
        self.loss, self.twice, self.late, self.delay, self.spread = loss, twice, late, delay, spread


class Loop(asyncio.AbstractEventLoop):
    """The event loop of one process, which can compute (`burn`), be stopped (SIGSTOP), continued, and killed.

    As asyncio's, it runs what is ready in turns. What comes in while a turn computes waits for the next one.
    """

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.random = random.Random(seed)
        self.epoch = self.random.uniform(0.0, 1e6)  # no two machines have been up for the same time
        self.wall = 0.0
        self.ahead = 0.0  # seconds computed in this turn, which the world has not seen pass yet
        self.longest_turn = 0.0
        self.resumed_at = 0.0  # when it had last computed, or was continued
        self.stopped = False
        self.dead = False
        self.errors: list[dict[str, Any]] = []
        self._ready: deque[events.Handle] = deque()
        self._woken = False

    @property
    def now(self) -> float:
        """The world's time, as this process sees it."""
        return self.world.now + self.ahead

    @property
    def is_held_up(self) -> bool:
        """Whether it runs nothing now, whatever is due."""
        return self.stopped or self.ahead > 0

    def time(self) -> float:
        return self.world.now + self.ahead + self.epoch

    def time_ns(self) -> int:
        """The wall clock, which may be wrong."""
        return int((1.7e9 + self.now + self.wall) * 1e9)

    def burn(self, seconds: float) -> None:
        """Compute for so long, in a callback: time passes, here and elsewhere, and this process does nothing else."""
        self.ahead += seconds

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Any = None) -> events.Handle:
        handle = events.Handle(callback, args, self, context)
        self._ready.append(handle)
        if not self._woken:
            self._woken = True
            self.world.at(self.world.now, self._run)
        return handle

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any, context: Any = None) -> Any:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any, context: Any = None) -> Any:
        handle = events.TimerHandle(when, callback, args, self, context)
        self.world.at(when - self.epoch, self._timer, handle)
        return handle

    def receive(self, callback: Callable[..., Any], *args: Any) -> None:
        """Something came in: run it after what is ready. A process that is held up finds it when it goes on."""
        self.call_soon(callback, *args)

    def stop_now(self) -> None:
        self.stopped = True

    def go_on(self) -> None:
        """SIGCONT. What came in is found before or after the timers that are overdue, as it happens."""
        self.stopped = False
        self.resumed_at = self.world.now
        if self.random.random() < 0.5:
            timers = [h for h in self._ready if isinstance(h, events.TimerHandle)]
            others = [h for h in self._ready if not isinstance(h, events.TimerHandle)]
            self._ready = deque(timers + others if self.random.random() < 0.5 else others + timers)
        self._woken = True
        self.world.at(self.world.now, self._run)

    def kill(self) -> None:
        self.dead = True
        self._ready.clear()

    def _timer(self, handle: events.TimerHandle) -> None:
        if not handle.cancelled() and not self.dead:
            self._ready.append(handle)
            if not self._woken:
                self._run()

    def _run(self) -> None:
        if self.dead or self.is_held_up:  # until `go_on`, or until the world has caught up
            return
        self._woken = True
        events._set_running_loop(self)
        try:
            while self._ready and not self.dead and not self.ahead:
                self._turn(self._ready)
        finally:
            events._set_running_loop(None)
            self._woken = self.ahead > 0
        if self.ahead:
            self.world.at(self.world.now + self.ahead, self._caught_up)

    def _turn(self, ready: deque[events.Handle]) -> None:
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()
                if self.dead:
                    return

    def _caught_up(self) -> None:
        self.longest_turn = max(self.longest_turn, self.ahead)
        self.ahead = 0.0
        self.resumed_at = self.world.now
        self._run()

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self)

    def create_task(self, coro: Coroutine[Any, Any, Any], *, name: Any = None, context: Any = None, **_: Any) -> Any:
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # a killed process warns nobody
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self.dead:
            self.errors.append(context)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return not self.dead

    def is_closed(self) -> bool:
        return self.dead

    def _timer_handle_cancelled(self, handle: events.TimerHandle) -> None:
        pass
