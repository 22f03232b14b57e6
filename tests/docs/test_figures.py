"""Figures in the documents are those that the benchmarks wrote."""

import re

from documents import text_of

BENCHMARKS = "docs/benchmarks.md"


def plain(document: str) -> str:
    """The text of a document on one line."""
    return re.sub(r"\s+", " ", text_of(document))


def rows(heading: str) -> list[list[str]]:
    """The cells of the tables below a heading of the benchmarks."""
    section = re.split(r"^#+ ", text_of(BENCHMARKS).partition(f"# {heading}\n")[2], flags=re.MULTILINE)[0]
    lines = (line for line in section.splitlines() if line.startswith("| "))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def calls(system: str, concurrency: int) -> dict[str, str]:
    """What was measured for calls of 100 bytes, by the head of the column."""
    head, *table = rows("Payload 100 B")
    found = next(row for row in table if row[:2] == [system, str(concurrency)])
    return dict(zip(head, found, strict=True))


def costs(system: str, concurrency: int) -> list[str]:
    found = calls(system, concurrency)
    return [found[f"{who} µs"] for who in ("caller", "worker", "broker")]


def test_what_a_kind_of_message_costs() -> None:
    every = {row[0]: row[-1].removesuffix(" µs") for row in rows("Kinds of messages")}
    others = sorted(value for kind, value in every.items() if kind.startswith(("`dataclass`", "`attrs")))
    text = plain("docs/messages.md")
    assert f"took {every['`msgspec.Struct`, frozen']} µs of CPU as a Struct, {others[0]} to {others[-1]} µs as" in text
    assert f"and {every['`pydantic.BaseModel`']} µs as a pydantic model" in text
    best = min(sum(map(float, costs(system, 256))) for system in ("catga NATS", "catga NATS def"))
    assert f"A call over NATS took {best:.1f} µs in all at its best" in text


def test_what_a_call_costs() -> None:
    one, many = costs("catga NATS", 1), costs("catga NATS", 32)
    said = "{:.0f}, {:.0f} and {:.0f} µs for one call at a time, {}, {} and {} µs for 32 at once"
    assert said.format(*map(float, one), *many) in plain("docs/operations.md")


def test_the_ratios_of_the_readme() -> None:
    def ratios(system: str) -> str:
        return " / ".join(f"{float(calls(system, c)['×']):.1f}" for c in (1, 32, 256))

    text = plain("README.md")
    assert f"{ratios('catga NATS')} × over NATS and {ratios('catga Redis')} × over Redis" in text
