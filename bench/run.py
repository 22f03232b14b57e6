"""Run every benchmark and write docs/benchmarks.md: python bench/run.py [--quick]  (or python -m bench)."""

import argparse
import datetime
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import imports, inprocess, layers, rpc, scale
from bench.common import ROOT, say, table, versions

PAGE = ROOT / "docs" / "benchmarks.md"

HEAD = """# Benchmarks

Written by `{command}` on {date}, in {minutes:.0f} minutes; the load of the machine was {load:.1f} at the start and
{load_after:.1f} at the end. Rounds are interleaved: each round measures everything once, a ratio is taken within a
round, and the figures are medians over the rounds. Absolute figures are this machine's; compare ratios.
"""

SECTIONS: tuple[tuple[str, str, Callable[[bool], str]], ...] = (
    ("imports", "Import and memory", lambda quick: imports.report(imports.run(quick=quick))),
    ("inprocess", "In one process", lambda quick: inprocess.report(inprocess.run(quick=quick))),
    ("rpc", "Over a broker", lambda quick: rpc.report(rpc.run(quick=quick))),
    ("layers", "Where a call's time goes", lambda quick: layers.report(seconds=2.0 if quick else 5.0)),
    ("scale", "Large clusters", lambda quick: scale.report(scale.run(quick=quick))),
)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few minutes: fewer, shorter rounds, small clusters")
    parser.add_argument("--only", default="", help="sections, by comma: " + ", ".join(name for name, _, _ in SECTIONS))
    parser.add_argument("--output", type=Path, default=PAGE)
    given = parser.parse_args()
    start, load = time.monotonic(), os.getloadavg()[0]
    chosen = given.only.split(",") if given.only else [name for name, _, _ in SECTIONS]
    parts = [f"\n## {title}\n\n{run(given.quick)}" for name, title, run in SECTIONS if name in chosen]
    command = "python -m bench" + (" --quick" if given.quick else "") + (f" --only {given.only}" if given.only else "")
    head = HEAD.format(
        command=command,
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        minutes=(time.monotonic() - start) / 60,
        load=load,
        load_after=os.getloadavg()[0],
    )
    used = "\n## Versions\n\n" + table(["what", "version"], list(versions().items()))
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(head + "".join(parts) + used)
    say("written:", given.output)


if __name__ == "__main__":
    main()
