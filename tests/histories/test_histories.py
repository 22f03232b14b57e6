"""Real brokers, real processes, seeded faults: the promises hold. `make test-long` has the many and long ones."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.histories.driver import BROKERS
from tests.histories.once import run_history

pytestmark = pytest.mark.timeout(240)
SEEDS = range(20)


@pytest.mark.long
@pytest.mark.parametrize("on", BROKERS)
async def test_a_short_history_keeps_the_promises(on: str) -> None:
    verdict = await run_history(100, 8.0, on)
    assert verdict.violations == [], verdict.text


@pytest.mark.long
@pytest.mark.parametrize("on", BROKERS)
@pytest.mark.parametrize("seed", SEEDS)
async def test_a_history_keeps_the_promises(seed: int, on: str) -> None:
    verdict = await run_history(seed, 40.0, on)
    assert verdict.violations == [], verdict.text
