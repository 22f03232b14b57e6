"""Messages that wait are woken by changes, not one by one."""

import asyncio
import math

from catga.cluster.changes import Changes
from catga.testing.waiting import eventually


async def test_a_change_wakes_all_who_wait() -> None:
    changes = Changes()
    waiting = [asyncio.create_task(changes.next(math.inf)) for _ in range(3)]
    await asyncio.sleep(0)
    changes.tell()
    assert await asyncio.gather(*waiting) == [True] * 3


async def test_changes_within_the_delay_wake_once() -> None:
    changes, woken = Changes(0.01), 0

    async def look_again_and_again() -> None:
        nonlocal woken
        while await changes.next(math.inf):
            woken += 1

    looking = asyncio.create_task(look_again_and_again())
    await asyncio.sleep(0)
    for _ in range(100):
        changes.tell()
        await asyncio.sleep(0)
    await eventually(lambda: woken)
    looking.cancel()
    assert woken == 1


async def test_a_change_that_comes_too_late_is_told_as_none() -> None:
    assert not await Changes().next(asyncio.get_running_loop().time() + 0.001)
