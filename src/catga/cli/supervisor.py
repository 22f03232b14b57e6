"""Keeps worker processes running: restarts what crashes, gives up on what cannot work, stops all gracefully."""

import asyncio
import signal
import time
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable
from contextlib import suppress

from catga.cli.failures import FAILED, UNREACHABLE, USAGE, WORKERS_DIED

STABLE = 30.0
"""Seconds that a worker must live for its former failures to be forgotten."""
MAX_FAILURES = 5
"""In a row, of one worker."""
FIRST_DELAY = 0.5
KILL_AFTER = 3.0
"""Seconds that workers have when told to stop at once."""


def next_delay(failures: int) -> float | None:
    """Seconds until a worker is started again that failed so often in a row; None: give up."""
    return None if failures >= MAX_FAILURES else FIRST_DELAY * 2 ** (failures - 1)


def describe(status: int) -> str:
    """An exit status in words."""
    if status < 0:
        with suppress(ValueError):
            return f"was killed by {signal.Signals(-status).name}"
    return f"ended with exit status {status}"


class Supervisor:
    """Runs `workers` processes, numbered from 0.

    Args:
        start: starts worker number n.
        grace: seconds that workers have to stop when asked.
        say: a line for the user.
        wait_for_change: reload mode: a worker that cannot work is tried again at the next `reload`.
    """

    def __init__(
        self,
        start: Callable[[int], Awaitable[Process]],
        workers: int,
        *,
        grace: float,
        say: Callable[[str], None],
        wait_for_change: bool = False,
    ) -> None:
        self._start = start
        self._workers = workers
        self._grace = grace
        self._say = say
        self._wait_for_change = wait_for_change
        self._processes: dict[int, Process] = {}
        self._generation = 0
        self._changed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._killer: asyncio.TimerHandle | None = None
        self._status = 0

    async def run(self) -> int:
        """Run until `stop`, or until a worker cannot be kept running; returns the exit status."""
        await asyncio.gather(*(self._keep(number) for number in range(self._workers)))
        if self._killer is not None:
            self._killer.cancel()
        return self._status

    def stop(self) -> None:
        """Let the workers finish what they accepted. Called again: stop them at once."""
        again = self._stopping.is_set()
        self._stopping.set()
        self._changed.set()
        self._signal(signal.SIGTERM)
        self._kill_in(KILL_AFTER if again else self._grace)

    def reload(self) -> None:
        """Restart all workers, gracefully."""
        self._generation += 1
        self._changed.set()
        self._signal(signal.SIGTERM)

    # -- inside ---------------------------------------------------------------------------------------

    async def _keep(self, number: int) -> None:
        failures = 0
        while not self._stopping.is_set():
            generation, began = self._generation, time.monotonic()
            status = await self._run_one(number)
            if self._stopping.is_set():
                self._status = self._status or (FAILED if status else 0)
                return
            if generation != self._generation:
                failures = 0
                continue
            failures = 1 if time.monotonic() - began >= STABLE else failures + 1
            delay = None if status == USAGE else next_delay(failures)
            if delay is not None:
                self._say(f"worker {number + 1} {describe(status)}; it is started again in {delay:g} s")
                await self._pause(delay)
            elif self._wait_for_change:
                failures = 0
                self._say(f"worker {number + 1} {describe(status)}; it is started again when the code changes")
                await self._pause(None)
            else:
                self._give_up(number, status, failures)

    async def _run_one(self, number: int) -> int:
        self._changed.clear()
        process = self._processes[number] = await self._start(number)
        if self._stopping.is_set():  # it was told while the process was made
            self._signal(signal.SIGTERM)
        try:
            return await process.wait()
        finally:
            del self._processes[number]

    async def _pause(self, seconds: float | None) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), seconds)

    def _give_up(self, number: int, status: int, failures: int) -> None:
        if self._stopping.is_set():
            return
        often = "" if status == USAGE else f" {failures} times in a row"
        self._say(f"worker {number + 1} {describe(status)}{often}: giving up")
        self.stop()
        self._status = status if status in (USAGE, UNREACHABLE) else WORKERS_DIED

    def _signal(self, number: int) -> None:
        for process in self._processes.values():
            with suppress(ProcessLookupError):
                process.send_signal(number)

    def _kill_in(self, seconds: float) -> None:
        if self._killer is not None:
            self._killer.cancel()
        self._killer = asyncio.get_running_loop().call_later(seconds, self._signal, signal.SIGKILL)
