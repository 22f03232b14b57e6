"""Run every benchmark and write docs/benchmarks.md: python bench/run.py [--quick]  (or python -m bench)."""

import argparse
import datetime
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import imports, inprocess, kinds, layers, rpc, scale
from bench.common import ROOT, say, table, versions

PAGE = ROOT / "docs" / "benchmarks.md"

HEAD = """# Benchmarks

Written by `python -m bench`, each section by the command that it names. Rounds are interleaved: each round measures
everything once, a ratio is taken within a round, and the figures are medians over the rounds. Absolute figures are this
machine's; compare ratios.
"""

NOTE = """By `{command}` on {date}, in {minutes:.0f} minutes; the load of the machine was {load:.1f} at the start and
{load_after:.1f} at the end.
"""

SECTIONS: tuple[tuple[str, str, Callable[[bool], str]], ...] = (
    ("imports", "Import and memory", lambda quick: imports.report(imports.run(quick=quick))),
    ("inprocess", "In one process", lambda quick: inprocess.report(inprocess.run(quick=quick))),
    ("kinds", "Kinds of messages", lambda quick: kinds.report(kinds.run(quick=quick))),
    ("rpc", "Over a broker", lambda quick: rpc.report(rpc.run(quick=quick))),
    ("layers", "Where a call's time goes", lambda quick: layers.report(seconds=2.0 if quick else 5.0)),
    ("scale", "Large clusters", lambda quick: scale.report(scale.run(quick=quick))),
)


def _sections(page: Path) -> dict[str, str]:
    """The sections that the page has, by title: those that are not run anew stay."""
    parts = page.read_text().split("\n## ")[1:] if page.exists() else []
    return {title: text for title, _, text in (part.partition("\n\n") for part in parts)}


def _run(name: str, run: Callable[[bool], str], *, quick: bool) -> str:
    """One section, with the command that writes it."""
    start, load = time.monotonic(), os.getloadavg()[0]
    text = run(quick)
    note = NOTE.format(
        command=f"python -m bench --only {name}" + (" --quick" if quick else ""),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        minutes=(time.monotonic() - start) / 60,
        load=load,
        load_after=os.getloadavg()[0],
    )
    return f"{note}\n{text}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few minutes: fewer, shorter rounds, small clusters")
    parser.add_argument(
        "--only", default="", help="sections, by comma; the others stay: " + ", ".join(name for name, _, _ in SECTIONS)
    )
    parser.add_argument("--output", type=Path, default=PAGE)
    given = parser.parse_args()
    chosen = given.only.split(",") if given.only else [name for name, _, _ in SECTIONS]
    sections = _sections(given.output)
    for name, title, run in SECTIONS:
        if name in chosen:
            sections[title] = _run(name, run, quick=given.quick)
    sections["Versions"] = table(["what", "version"], list(versions().items()))
    given.output.parent.mkdir(parents=True, exist_ok=True)
    titles = [title for _, title, _ in SECTIONS if title in sections]
    given.output.write_text(HEAD + "".join(f"\n## {title}\n\n{sections[title]}" for title in [*titles, "Versions"]))
    say("written:", given.output)


if __name__ == "__main__":
    main()
