"""One history from its seed to its verdict."""

import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.histories.checker import Violation, check, counts
from tests.histories.driver import run
from tests.histories.history import History
from tests.histories.plan import plan
from tests.histories.story import report, summary


class Verdict(NamedTuple):
    """What a history broke, and all of that as text."""

    violations: list[Violation]
    text: str


async def run_history(seed: int, seconds: float, on: str) -> Verdict:
    """Run the history of this seed on this broker. What was written down stays in a temporary folder, which the text
    names, unless all promises were kept."""
    folder = Path(tempfile.mkdtemp(prefix=f"catga-history-{on}-{seed}-"))
    planned = plan(seed, seconds)
    history = History(planned, await run(planned, on, folder))
    violations = check(history)
    head = f"== seed {seed} on {on}: {summary(history)}"
    if not violations:
        shutil.rmtree(folder)
        return Verdict([], head)
    rules = ", ".join(f"{count} {rule}" for rule, count in counts(violations).items())
    text = f"{head}\n   BROKEN: {rules}; records in {folder}\n{report(history, violations)}"
    return Verdict(violations, text)
