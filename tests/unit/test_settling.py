"""Work of behaviors that outlives its caller, in several event loops."""

import asyncio
import sys
import threading
from collections.abc import Iterator

import pytest

from catga.mediator.settling import begin, settled


@pytest.fixture
def quick_switches() -> Iterator[None]:
    """Let threads take turns as often as they can."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("quick_switches")
async def test_work_may_begin_in_another_loop_while_this_one_waits_for_its_own() -> None:
    has_ended = threading.Event()

    async def work() -> None:
        await asyncio.sleep(0)

    async def begin_again_and_again() -> None:
        while not has_ended.is_set():
            for _ in range(50):
                begin(work())
            await asyncio.sleep(0)

    other = threading.Thread(target=asyncio.run, args=(begin_again_and_again(),))
    other.start()
    try:
        for _ in range(20_000):
            assert await settled()
    finally:
        has_ended.set()
        other.join()
