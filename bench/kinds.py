"""Kinds of message classes: what one costs to make, to encode and to decode, in CPU time.

    python -m bench.kinds [--quick]

Four fields, one of them a list; encoded and decoded by catga's codec, as over a broker.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import attrs
import msgspec
import pydantic

from bench.common import Rounds, interleave, ratio, say, table
from catga import Request
from catga.codec import Codec, encode


class Struct(msgspec.Struct, Request[int], frozen=True):
    sku: str
    count: int
    price: float
    tags: list[str]


@dataclass(slots=True)
class Dataclass(Request[int]):
    sku: str
    count: int
    price: float
    tags: list[str]


@dataclass(frozen=True, slots=True)
class FrozenDataclass(Request[int]):
    sku: str
    count: int
    price: float
    tags: list[str]


@attrs.define(frozen=True)
class Attrs(Request[int]):
    sku: str
    count: int
    price: float
    tags: list[str]


class Model(pydantic.BaseModel, Request[int]):
    sku: str
    count: int
    price: float
    tags: list[str]


KINDS: dict[str, type] = {
    "`msgspec.Struct`, frozen": Struct,
    "`dataclass`, slots": Dataclass,
    "`dataclass`, frozen, slots": FrozenDataclass,
    "`attrs.define`, frozen": Attrs,
    "`pydantic.BaseModel`": Model,
}
BASE = next(iter(KINDS))
STEPS = ("make", "encode", "decode")


def run(*, quick: bool = False) -> Rounds:
    """Nanoseconds by (kind, step), a round each."""
    say("kinds of messages")
    calls = 2_000 if quick else 10_000
    measures = {
        f"{kind} {step}": (lambda work=work: _cost(work, calls))
        for kind, cls in KINDS.items()
        for step, work in _steps(cls).items()
    }
    return interleave(measures, 7 if quick else 15)


def _steps(cls: type) -> dict[str, Callable[[], Any]]:
    tags = ["green", "loose"]

    def make() -> Any:
        return cls(sku="tea", count=3, price=4.5, tags=tags)

    message, codec = make(), Codec(cls)
    body = encode(message)
    assert codec.decode(body) == message
    return dict(zip(STEPS, (make, lambda: encode(message), lambda: codec.decode(body)), strict=True))


def _cost(work: Callable[[], Any], calls: int) -> float:
    start = time.process_time_ns()
    for _ in range(calls):
        work()
    return (time.process_time_ns() - start) / calls


def report(rounds: Rounds) -> str:
    """The section of the page."""
    rows: list[list[object]] = []
    for kind in KINDS:
        cells = [_cell(rounds, kind, step) for step in STEPS]
        total = sum(median(rounds[f"{kind} {step}"]) for step in STEPS)
        rows.append([kind, *cells, f"{total / 1000:.1f} µs"])
    text = "CPU time of one message with four fields, and × that of a Struct; `all` is what a request pays before and\n"
    text += "after its way. The kind is the user's choice: all work alike.\n\n"
    return text + table(["kind", *STEPS, "all"], rows)


def _cell(rounds: Rounds, kind: str, step: str) -> str:
    name, base = f"{kind} {step}", f"{BASE} {step}"
    return f"{median(rounds[name]):.0f} ns ({ratio(rounds, name, base):.1f} ×)"


if __name__ == "__main__":
    print(report(run(quick="--quick" in sys.argv)))
