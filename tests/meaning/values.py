"""What values come back as."""

import datetime as dt
import decimal
import enum
import uuid
import zoneinfo
from dataclasses import dataclass, field
from types import new_class
from typing import Any, NamedTuple, TypedDict
from unittest.mock import ANY

import attrs
import msgspec
import pydantic
from places import Case, Table, Told, failure, success

from catga import Mediator, Request

TABLE = Table()


class Color(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@dataclass(frozen=True)
class Point:
    x: int
    y: float = 0.0


@dataclass(frozen=True)
class Pixel(Point):
    color: str = "red"


@dataclass
class Mutable:
    items: list[int] = field(default_factory=list)


class Node(msgspec.Struct, frozen=True):
    value: int
    next: "Node | None" = None


class Tagged(msgspec.Struct, frozen=True, tag=True):
    value: int


class Other(msgspec.Struct, frozen=True, tag=True):
    value: str


@attrs.frozen
class Attrs:
    value: int


class Model(pydantic.BaseModel):
    value: int
    at: dt.datetime | None = None


@dataclass(frozen=True)
class Marked:
    """Changes itself when it is made: so it does on arrival."""

    text: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", f"#{self.text}")


class Pair(NamedTuple):
    a: int
    b: str


class Typed(TypedDict):
    a: int


BERLIN = dt.datetime(2024, 7, 1, 0, 30, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"))
UTC = dt.datetime(2024, 6, 30, 22, 30, tzinfo=dt.UTC)

VALUES: list[tuple[str, Any, Any]] = [
    ("an int", int, 7),
    ("a large int", int, 2**64 - 1),
    ("a negative int", int, -(2**63)),
    ("a bool", bool, True),
    ("a float", float, 1.5),
    ("infinity", float, float("inf")),
    ("a text", str, "Grüße"),
    ("no text", str, ""),
    ("bytes", bytes, b"\x00\xff"),
    ("None", None, None),
    ("an optional that is there", int | None, 1),
    ("an optional that is not", int | None, None),
    ("a naive datetime", dt.datetime, dt.datetime(2024, 1, 1, 12)),
    ("a datetime in UTC", dt.datetime, UTC),
    ("a date", dt.date, dt.date(2024, 1, 1)),
    ("a time", dt.time, dt.time(12, 30)),
    ("a duration", dt.timedelta, dt.timedelta(days=1, microseconds=3)),
    ("a UUID", uuid.UUID, uuid.UUID(int=3)),
    ("a decimal", decimal.Decimal, decimal.Decimal("1.10")),
    ("an enum", Color, Color.RED),
    ("an int enum", Level, Level.HIGH),
    ("a list", list[int], [1, 2]),
    ("an empty list", list[int], []),
    ("a set", set[int], {1, 2}),
    ("a frozen set", frozenset[int], frozenset({1})),
    ("a tuple of one type", tuple[int, ...], (1, 2, 3)),
    ("a tuple of several types", tuple[int, str], (1, "a")),
    ("a dict", dict[str, int], {"a": 1}),
    ("a dict with keys that are ints", dict[int, str], {1: "a"}),
    ("lists in dicts in lists", list[dict[str, list[int]]], [{"a": [1]}]),
    ("a frozen dataclass", Point, Point(1, 2.0)),
    ("a dataclass that can be changed", Mutable, Mutable([1])),
    ("a Struct that holds its like", Node, Node(1, Node(2))),
    ("a tagged union", Tagged | Other, Other("a")),
    ("the first of a tagged union", Tagged | Other, Tagged(1)),
    ("an attrs class", Attrs, Attrs(1)),
    ("a pydantic model", Model, Model(value=1, at=UTC)),
    ("a list of models", list[Model], [Model(value=1), Model(value=2)]),
    ("a named tuple", Pair, Pair(1, "a")),
    ("a typed dict", Typed, {"a": 1}),
    ("Any that is plain", Any, [1, "a", None]),
    ("a tuple of frozen dataclasses", tuple[Point, ...], (Point(1), Point(2))),
    ("a union of plain types", int | str, "a"),
]
"""Name, type, value: each comes back equal, and of the same types all the way down."""

CHANGED: list[tuple[str, Any, Any, Told]] = [
    ("a datetime elsewhere comes back in UTC", dt.datetime, BERLIN, success(UTC)),
    (
        "an instance of a subclass comes back as the class that was declared",
        Point,
        Pixel(1, 2.0),
        success(Point(1, 2.0)),
    ),
    ("an int for a float comes back as a float", float, 3, success(3.0)),
    ("a tuple for a list comes back as a list", list[int], (1, 2), success([1, 2])),
    ("a dataclass for Any comes back as a dict", Any, Point(1), success({"x": 1, "y": 0.0})),
    ("an int enum for an int comes back as an int", int, Level.HIGH, success(3)),
    ("a list within a frozen dataclass is a copy", Mutable, Mutable([1]), success(Mutable([1]))),
    (
        "what changes itself when it is made does so on arrival",
        Marked,
        Marked("x"),
        success(Marked("#x")),
    ),
    ("None for an int is refused", int, None, failure("invalid_message", ANY)),
    ("a text for an int is refused", int, "7", failure("invalid_message", ANY)),
    ("a text for a list is refused", list[str], "ab", failure("invalid_message", ANY)),
    ("an int that is too large is refused", int, 2**64, failure("handler_error", ANY)),
    ("a lone surrogate is refused", str, "\ud800", failure("handler_error", ANY)),
    ("a function is refused", Any, len, failure("handler_error", ANY)),
]
"""Name, type, what the handler returns, what it means."""


def replying(kind: Any, value: Any) -> Any:
    """A program whose handler returns the value for a request that is answered with such a one."""
    asked = dataclass(frozen=True)(new_class("Asked", (Request[kind],)))

    def program(app: Mediator) -> Any:
        async def answer(request: Any):  # type: ignore[no-untyped-def]
            return value

        app.handles(asked)(answer)
        return asked()

    return program


def sending(kind: Any, value: Any) -> Any:
    """A program that sends the value in a message, whose handler returns it."""
    fields = {"__annotations__": {"value": kind}}
    sent = dataclass(frozen=True)(new_class("Sent", (Request[kind],), exec_body=lambda names: names.update(fields)))

    def program(app: Mediator) -> Any:
        async def answer(request: Any):  # type: ignore[no-untyped-def]
            return request.value

        app.handles(sent)(answer)
        return sent(value)

    return program


def case(name: str, program: Any, means: Told) -> Case:
    program.__name__ = name.replace(" ", "_")
    return Case(program, means)


TABLE += [
    case(f"{name} that is sent and answered", sending(kind, value), success(value)) for name, kind, value in VALUES
]
CHANGES = Table(case(name, replying(kind, value), means) for name, kind, value, means in CHANGED)
"""Where a node runs the handler: one process passes these by reference."""
