"""What every fault costs: ``python -m bench.faults`` runs them all on NATS and on Redis and writes docs/faults.md.

The same scenarios run as tests (`tests/faults`), shorter and with generous deadlines. Here the limits are the
promised ones. ``--only sigkill --on nats`` selects, and then prints without writing.
"""

import argparse
import asyncio
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests" / "faults"))

from scenarios import SCENARIOS, Run, run_scenario  # noqa: E402

PAGE = ROOT / "docs" / "faults.md"

HEAD = """# Faults

What breaks, what it costs. Three nodes as processes of their own, two callers, {rate:.0f} requests a second (unless the
row says otherwise), a real broker; 5 ms handlers. Where a bus of several servers is split, two nodes are on each side,
and the callers on one. Written by `python -m bench.faults`.

*lost*: requests that failed (if what they need is away for longer than their deadline, 10 s or as the row says, they
must). *twice*: requests that ran more than once (for idempotent ones that is allowed). *noticed*: until the last
watcher saw it, or the last caller chose the node no more. *recovered*: until requests flowed as before; after a
split, a failover or a lost permission, until everybody saw everybody again. Times are seconds.

| fault | on | lost | ran twice | noticed | recovered | |
|---|---|---|---|---|---|---|
"""


def row(kind: str, run: Run) -> str:
    """One line of the table."""

    def seconds(value: float | None) -> str:
        return "–" if value is None else f"{value:.2f}"

    verdict = "; ".join(run.problems) or "; ".join(run.notes)
    mark = "**does not hold**: " if run.problems else ""
    cells = (
        run.fault,
        kind,
        str(run.lost),
        str(run.twice),
        seconds(run.detection),
        seconds(run.recovery),
        mark + verdict,
    )
    return f"| {' | '.join(cells)} |\n"


async def measure(names: list[str], kinds: list[str], rate: float) -> tuple[str, int]:
    """The table's rows, and how many of them do not hold."""
    text, bad = "", 0
    for name in names:
        for kind in kinds:
            if kind.lower() not in SCENARIOS[name].on:
                continue
            run = await run_scenario(name, kind.lower(), rate=rate, patience=1.0)
            line = row(kind, run)
            print(line, end="", flush=True)
            text += line
            bad += bool(run.problems)
    return text, bad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="scenarios whose names contain this")
    parser.add_argument("--on", choices=["nats", "redis"], help="one broker only")
    parser.add_argument("--rate", type=float, default=500.0, help="requests a second")
    args = parser.parse_args()
    names = [name for name in SCENARIOS if args.only in name]
    kinds = {"nats": ["NATS"], "redis": ["Redis"], None: ["NATS", "Redis"]}[args.on]
    rows, bad = asyncio.run(measure(names, kinds, args.rate))
    if not args.only and not args.on:
        PAGE.write_text(HEAD.format(rate=args.rate) + rows)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
