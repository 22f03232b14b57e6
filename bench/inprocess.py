"""One process: what a call costs over ``await handler(x)``, in CPU time.

    python -m bench.inprocess [--quick]

Each peer runs in an environment of its own, against the same plain awaits in the same process and round.
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


def run_system(name: str, interpreter: Path, version: str, rounds: int, calls: int) -> Result:
    """Run ``bench/systems/inprocess_NAME.py`` under its own interpreter."""
    script = ROOT / "bench" / "systems" / f"inprocess_{name.replace('-', '_')}.py"
    command = [str(interpreter), str(script), str(rounds), str(calls)]
    done = subprocess.run(command, capture_output=True, text=True, env=child_env(), timeout=600)
    if done.returncode:
        return Result(name, version, None, (done.stderr.strip().splitlines() or ["failed"])[-1][:120])
    return Result(name, version, json.loads(done.stdout.splitlines()[-1]))


def run(*, quick: bool = False) -> list[Result]:
    """All systems."""
    rounds, calls = (7, 20_000) if quick else (25, 40_000)
    results = [
        run_system("catga", Path(sys.executable), "this tree", rounds, calls),
        run_system("floor", Path(sys.executable), "", rounds, calls),
    ]
    for name in PEERS:
        interpreter = envs.python(name)
        say("in process:", name, "" if interpreter else "(not installable)")
        if interpreter is None:
            results.append(Result(name, "-", None, "could not be installed"))
        else:
            results.append(run_system(name, interpreter, distribution(name, interpreter), rounds, calls // 4))
    return results


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
