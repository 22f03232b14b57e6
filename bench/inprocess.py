"""One process: what a call costs over ``await handler(x)``, in CPU time.

    python -m bench.inprocess [--quick]

Each peer runs in an environment of its own, against the same plain awaits in the same process and round; the systems
take turns, a process each.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench import envs
from bench.common import ROOT, Rounds, child_env, distribution, ratio, say, spread, table, verdict

PEERS = ("meator", "mediatr", "py-mediatr", "python-cqrs")
CASES = ("send", "send, 3 behaviors", "publish, 3 handlers")
LIMITS = {"send": 2.5, "send, 3 behaviors": 5.0, "publish, 3 handlers": 1.6}


@dataclass
class Result:
    """Rounds of one system: ns a call by case, and of its baselines (``await``, ``three awaits``)."""

    name: str
    version: str
    rounds: Rounds | None
    note: str = ""


def baseline_of(case: str) -> str:
    """What a case is compared with."""
    return "three awaits" if case.startswith("publish") else "await"


@dataclass
class System:
    """One system: its script is ``bench/systems/inprocess_NAME.py``."""

    name: str
    version: str
    interpreter: Path
    calls: int

    def measure(self, rounds: int) -> Rounds:
        """The rounds of one process. Raises `RuntimeError` with its last words."""
        script = ROOT / "bench" / "systems" / f"inprocess_{self.name.replace('-', '_')}.py"
        command = [str(self.interpreter), str(script), str(rounds), str(self.calls)]
        done = subprocess.run(command, capture_output=True, text=True, env=child_env(), timeout=600)
        if done.returncode:
            raise RuntimeError((done.stderr.strip().splitlines() or ["failed"])[-1][:120])
        found: Rounds = json.loads(done.stdout.splitlines()[-1])
        return found


def run(*, quick: bool = False) -> list[Result]:
    """All systems, each in several processes, in turns: where an interpreter puts its objects makes some per cent."""
    processes, rounds, calls = (2, 4, 20_000) if quick else (8, 5, 40_000)
    results: list[Result] = []
    systems: list[System] = []
    for name in ("catga", "floor", *PEERS):
        interpreter = envs.python(name) if name in PEERS else Path(sys.executable)
        if interpreter is None:
            results.append(Result(name, "-", None, "could not be installed"))
            continue
        version = distribution(name, interpreter) if name in PEERS else {"catga": "this tree"}.get(name, "")
        systems.append(System(name, version, interpreter, calls // 4 if name in PEERS else calls))
        results.append(Result(name, version, {}))
    for number in range(processes):
        say(f"in process: {number + 1} of {processes}")
        for system in systems:
            _add(next(result for result in results if result.name == system.name), system, rounds)
    return results


def _add(result: Result, system: System, rounds: int) -> None:
    if result.rounds is None:
        return
    try:
        measured = system.measure(rounds)
    except RuntimeError as error:
        result.rounds, result.note = None, str(error)
        return
    for case, values in measured.items():
        result.rounds.setdefault(case, []).extend(values)


def report(results: list[Result]) -> str:
    """The section of the page."""
    rows: list[list[object]] = []
    for result in results:
        cells: list[object] = [f"{result.name} {result.version}".strip()]
        if result.rounds is None:
            cells += [result.note, "", ""]
        else:
            cells += [_cell(result.rounds, case) for case in CASES]
        rows.append(cells)
    catga = results[0].rounds
    text = "CPU time of a call over plain awaits of the same handlers: median of the ratios (least–greatest).\n"
    text += "`floor` is a look-up, a coroutine and a result, the behaviors nested by hand.\n\n"
    text += table(["system", *CASES], rows)
    if catga is not None:
        text += f"\n`await handler(x)` here: {median(catga['await']):.0f} ns.\n\n"
        checks = [(case, LIMITS[case], ratio(catga, case, baseline_of(case))) for case in CASES]
        text += table(
            ["target", "limit", "measured", ""],
            [[case, f"≤ {limit} ×", f"{value:.2f} ×", verdict(value, limit)] for case, limit, value in checks],
        )
    return text


def _cell(rounds: Rounds, case: str) -> str:
    if not rounds.get(case):
        return "-"
    base = baseline_of(case)
    return f"{ratio(rounds, case, base):.2f} × ({spread(rounds, case, base)})"


if __name__ == "__main__":
    print(report(run(quick="--quick" in sys.argv)))
