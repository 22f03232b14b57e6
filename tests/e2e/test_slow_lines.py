"""A node whose line is too slow for what comes to it sends that elsewhere while there is time."""

import asyncio
import os
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from slow_line import Burn

import catga
from catga import Mediator, RoundRobin, Success, add_cluster
from catga.testing import eventually

HERE = Path(__file__).parent
PER_SECOND = 240
"""Half of them go to each node. The slow one does 25."""
SECONDS, TIMEOUT = 3, 8.0
SLOW, QUICK = 40, 1
"""Milliseconds of CPU for a call."""


@asynccontextmanager
async def worker(
    url: str, node_id: str, prefix: str, burns: int, places: int
) -> AsyncIterator[asyncio.subprocess.Process]:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        str(HERE / "slow_line.py"),
        *(url, node_id, prefix, str(burns), str(places)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(catga.__file__).parent.parent)},
    )
    try:
        assert child.stdout is not None
        assert await child.stdout.readline() == b"ready\n"
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.communicate()


async def runs(child: asyncio.subprocess.Process) -> int:
    """Let it end. Returns how often its handler ran."""
    out, _ = await child.communicate(b"\n")
    return int(out)


@pytest.mark.parametrize(("broker", "places"), [("nats_url", 1), ("redis_url", 512)])
async def test_what_a_slow_line_refuses_runs_elsewhere_and_once(
    broker: str, places: int, request: pytest.FixtureRequest
) -> None:
    """Its handler holds the loop, and the calls are not idempotent. Without refusals 85 of the 720 are too late.

    They wait for the one place; or each has a place, and waits for its turn of the loop.
    """
    url, prefix = request.getfixturevalue(broker), f"t{uuid.uuid4().hex[:12]}"
    async with (
        worker(url, "slow", prefix, SLOW, places) as slow,
        worker(url, "quick", prefix, QUICK, places) as quick,
    ):
        caller = add_cluster(Mediator(), url, node_id="caller", prefix=prefix, routing=RoundRobin())
        async with caller:
            await eventually(lambda: len(caller.get_nodes()) == 3)
            calls = []
            for number in range(SECONDS * PER_SECOND):
                calls.append(asyncio.ensure_future(caller.send(Burn(number), timeout=TIMEOUT)))
                await asyncio.sleep(1 / PER_SECOND)
            results = await asyncio.gather(*calls)
        sent_on = [result for result in results if result.metadata.attempts > 1]
        assert sent_on
        assert all(isinstance(result, Success) and result.metadata.node_id == "quick" for result in sent_on)
        late = [result for result in results if not isinstance(result, Success)]
        assert len(late) < 20  # none, unless other work makes the slow node slower still
        assert await runs(slow) + await runs(quick) <= len(calls)
