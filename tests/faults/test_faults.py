"""Nothing is lost that was promised: every fault, on NATS and on Redis, with real processes under load."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from scenarios import SCENARIOS, run_scenario
from scenarios.base import in_turn

pytestmark = pytest.mark.timeout(180)

SHORT = in_turn(SCENARIOS)
CASES = [
    pytest.param(name, kind, marks=[] if SHORT.get(name) == kind else [pytest.mark.long])
    for name, scenario in SCENARIOS.items()
    for kind in scenario.on
]


@pytest.mark.parametrize(("name", "kind"), CASES)
async def test_what_must_hold_under_a_fault_holds(name: str, kind: str) -> None:
    run = await run_scenario(name, kind, rate=150.0, patience=5.0)
    assert run.problems == []
