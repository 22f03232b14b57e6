"""The faults: each a function that breaks something under load and says what must have held.

Shared by the tests (short, patient) and by ``bench/faults`` (longer, strict), which prints the table.
"""

from scenarios import (  # noqa: F401  each registers its own
    brokers,
    busy,
    deaths,
    failovers,
    late,
    load,
    permissions,
    processes,
    refusals,
    splits,
)
from scenarios.base import SCENARIOS, Run, run_scenario

__all__ = ["SCENARIOS", "Run", "run_scenario"]
