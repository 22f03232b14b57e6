"""The supervisor of worker processes, with processes that end as they are told."""

import asyncio
import sys
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable

import pytest

from catga.cli import supervisor as module
from catga.cli.failures import UNREACHABLE, USAGE, WORKERS_DIED
from catga.cli.supervisor import MAX_FAILURES, Supervisor, describe, next_delay
from catga.testing.waiting import eventually

GRACEFUL = "import signal,sys; signal.signal(15, lambda *_: sys.exit(0)); print(flush=True); signal.pause()"
STUBBORN = "import signal; signal.signal(15, signal.SIG_IGN); print(flush=True); signal.pause()"


def starter(*programs: str) -> tuple[Callable[[int], Awaitable[Process]], list[int]]:
    """Starts `programs` one after the other, the last of them for ever; and the numbers it was called with."""
    started: list[int] = []

    async def start(number: int) -> Process:
        program = programs[min(len(started), len(programs) - 1)]
        started.append(number)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        if "print" in program:
            assert process.stdout is not None
            await process.stdout.readline()  # it handles signals by now
        return process

    return start, started


@pytest.fixture(autouse=True)
def _short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_DELAY", 0.01)
    monkeypatch.setattr(module, "KILL_AFTER", 0.2)


def test_delays_double_and_then_it_gives_up() -> None:
    assert [next_delay(n) for n in range(1, MAX_FAILURES + 1)] == [0.01, 0.02, 0.04, 0.08, None]


def test_a_status_is_told_in_words() -> None:
    assert describe(-9) == "was killed by SIGKILL"
    assert describe(7) == "ended with exit status 7"


@pytest.mark.parametrize(("status", "expected"), [(7, WORKERS_DIED), (0, WORKERS_DIED), (UNREACHABLE, UNREACHABLE)])
async def test_a_worker_that_always_ends_is_given_up(status: int, expected: int) -> None:
    start, started = starter(f"raise SystemExit({status})")
    said: list[str] = []
    assert await Supervisor(start, 1, grace=5, say=said.append).run() == expected
    assert len(started) == MAX_FAILURES
    assert said[-1] == f"worker 1 ended with exit status {status} {MAX_FAILURES} times in a row: giving up"


async def test_a_worker_that_cannot_work_is_not_started_again() -> None:
    start, started = starter(f"raise SystemExit({USAGE})")
    assert await Supervisor(start, 1, grace=5, say=lambda _: None).run() == USAGE
    assert started == [0]


async def test_giving_up_on_one_worker_stops_the_others() -> None:
    start, started = starter(GRACEFUL, f"raise SystemExit({USAGE})")
    assert await Supervisor(start, 2, grace=30, say=lambda _: None).run() == USAGE
    assert sorted(started) == [0, 1]


async def test_a_crash_is_followed_by_a_restart_and_a_stop_by_none() -> None:
    start, started = starter("raise SystemExit(7)", GRACEFUL)
    restarted = asyncio.Event()
    supervisor = Supervisor(start, 1, grace=30, say=lambda _: restarted.set())
    running = asyncio.create_task(supervisor.run())
    await restarted.wait()
    await eventually(lambda: len(started) == 2)
    supervisor.stop()
    assert await running == 0
    assert started == [0, 0]


async def test_a_worker_that_does_not_stop_is_killed_at_the_second_wish() -> None:
    start, _ = starter(STUBBORN)
    supervisor = Supervisor(start, 1, grace=1000, say=lambda _: None)
    running = asyncio.create_task(supervisor.run())
    await eventually(lambda: supervisor._processes)
    supervisor.stop()
    supervisor.stop()
    assert await running == 1


async def test_reload_starts_the_workers_anew() -> None:
    start, started = starter(GRACEFUL)
    supervisor = Supervisor(start, 2, grace=30, say=lambda _: None)
    running = asyncio.create_task(supervisor.run())
    await eventually(lambda: len(supervisor._processes) == 2)
    supervisor.reload()
    await eventually(lambda: len(started) == 4 and len(supervisor._processes) == 2)
    supervisor.stop()
    assert await running == 0
    assert sorted(started) == [0, 0, 1, 1]
