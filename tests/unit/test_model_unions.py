"""A value of a union comes back as the member that it is of, or its class is refused: all pairs of many types."""

import collections
import dataclasses
import datetime as dt
import enum
import ipaddress
import pathlib
import uuid
from collections.abc import Iterator
from decimal import Decimal
from itertools import permutations
from pathlib import Path
from types import new_class
from typing import Annotated, Any, Literal, NamedTuple, Union

import attrs
import msgspec
import pydantic
import pytest
from typing_extensions import TypedDict

from catga import Event
from catga.codec import Codec, encode
from catga.errors import InvalidMessageError


class Small(pydantic.BaseModel):
    n: int = 1


class Twin(pydantic.BaseModel):
    n: int = 1


class Larger(pydantic.BaseModel):
    n: int = 1
    m: int = 0


class Closed(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    closed: str


class Root(pydantic.RootModel[list[int]]):
    pass


@dataclasses.dataclass
class Data:
    n: int = 1


class Typed(TypedDict):
    n: int


class Pair(NamedTuple):
    a: int = 1
    b: int = 2


class Span(NamedTuple):
    start: int = 1
    end: int = 2


class Letters(enum.Enum):
    A = "a"
    B = "b"


class OtherLetters(enum.StrEnum):
    A = "a"
    ONE = "1"


class Numbers(enum.IntEnum):
    ONE = 1
    TWO = 2


class OtherNumbers(enum.Enum):
    ONE = 1
    THREE = 3


class Floats(enum.Enum):
    HALF = 0.5
    ONE = 1.0


class Sizes(float, enum.Enum):
    SMALL = 1.5
    LARGE = 2.0


class Digits(enum.StrEnum):
    ONE = "01"
    TWO = "2.0"
    SMALL = "1.50"


class Nothing(enum.Enum):
    NONE = None
    A = "a"


class Struct(msgspec.Struct):
    s: int


@attrs.define
class Attrs:
    s: str


DAY, NOON, MIDNIGHT = dt.date(2024, 1, 1), dt.datetime(2024, 1, 1, 12), dt.datetime(2024, 1, 1)
ID = uuid.UUID(int=1)
V4, V6 = ipaddress.ip_address("1.2.3.4"), ipaddress.ip_address("::1")

TYPES: list[tuple[Any, list[Any]]] = [
    (None, [None]),
    (bool, [True, False]),
    (int, [5, 0, 1, -3, 2**40]),
    (float, [1.0, 0.0, 1.5, -2e300]),
    (str, ["5", "", "a", "true", "1.5", str(ID), "2024-01-01", "12:00:00", "PT1S", "a:b", "1+2j", "1.2.3.4", "::1"]),
    (bytes, [b"a", b"5", ID.bytes, b""]),
    (Decimal, [Decimal("5"), Decimal("1.50"), Decimal("0"), Decimal("86400"), Decimal("20240101"), Decimal("1E+3")]),
    (dt.datetime, [NOON, MIDNIGHT, MIDNIGHT.replace(tzinfo=dt.UTC)]),
    (dt.date, [DAY]),
    (dt.time, [dt.time(1, 2, 3), dt.time(0), dt.time(23, 59, 59, 5)]),
    (dt.timedelta, [dt.timedelta(hours=1), dt.timedelta(0), dt.timedelta(-1, 5), dt.timedelta(400)]),
    (uuid.UUID, [ID, uuid.UUID(int=2**127)]),
    (complex, [5 + 0j, 1.5 - 2j]),
    (Path, [Path("a"), Path("5"), Path(str(ID)), Path("2024-01-01"), Path("1.2.3.4")]),
    (ipaddress.IPv4Address, [V4]),
    (ipaddress.IPv6Address, [V6, ipaddress.ip_address("fe80::1")]),
    (pydantic.AnyUrl, [pydantic.AnyUrl("http://a.b/"), pydantic.AnyUrl(f"urn:uuid:{ID}"), pydantic.AnyUrl("a:b")]),
    (pydantic.SecretStr, [pydantic.SecretStr(text) for text in ("5", "a", str(ID))]),
    (Literal["a"], ["a"]),
    (Literal[1, "5"], [1, "5"]),
    (Letters, [*Letters]),
    (OtherLetters, [*OtherLetters]),
    (Numbers, [*Numbers]),
    (OtherNumbers, [*OtherNumbers]),
    (Floats, [*Floats]),
    (Sizes, [*Sizes]),
    (Digits, [*Digits]),
    (Nothing, [*Nothing]),
    (list[int], [[1, 2], [], [0]]),
    (list[str], [["1"], [], [str(ID)]]),
    (list[Decimal], [[Decimal("1"), Decimal("2")], []]),
    (list[uuid.UUID], [[ID], []]),
    (list[dt.date], [[DAY], []]),
    (list[dt.datetime], [[MIDNIGHT, NOON], []]),
    (list[Path], [[Path("1")], []]),
    (list[Small], [[Small(n=3)], []]),
    (list[Twin], [[Twin(n=3)], []]),
    (list[Letters | int], [[Letters.A, 1], []]),
    (set[int], [{1, 2}, set()]),
    (frozenset[str], [frozenset({"1"}), frozenset()]),
    (tuple[int, int], [(1, 2)]),
    (tuple[str, ...], [("1", "2"), ()]),
    (collections.deque[int], [collections.deque([1, 2]), collections.deque()]),
    (Pair, [Pair(1, 2)]),
    (Span, [Span(1, 2)]),
    (dict[str, int], [{"n": 3}, {}, {"n": 3, "m": 4}]),
    (dict[str, Decimal], [{"n": Decimal(3)}, {}]),
    (dict[int, str], [{1: "1"}, {}]),
    (dict[str, Small], [{"k": Small(n=3)}, {}]),
    (dict[str, Twin], [{"k": Twin(n=3)}, {}]),
    (dict[str, Any], [{"n": [1, "a"]}, {}, {"closed": "x"}]),
    (Small, [Small(n=3), Small()]),
    (Twin, [Twin(n=3)]),
    (Larger, [Larger(n=3, m=4), Larger()]),
    (Closed, [Closed(closed="x")]),
    (Root, [Root([1, 2]), Root([])]),
    (Data, [Data(3)]),
    (Typed, [{"n": 3}]),
    (Struct, [Struct(3)]),
    (Attrs, [Attrs("a")]),
]


def model(kind: Any) -> Any:
    class Base(pydantic.BaseModel, Event):
        model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)

    return pydantic.create_model("Model", __base__=Base, v=(kind, ...))


def data(kind: Any) -> Any:
    return dataclasses.make_dataclass("Class", [("v", kind)], bases=(Event,))


def struct(kind: Any) -> Any:
    fields = {"__annotations__": {"v": kind}}
    return new_class("Class", (msgspec.Struct, Event), exec_body=lambda names: names.update(fields))


def attrs_class(kind: Any) -> Any:
    return attrs.make_class("Class", {"v": attrs.field(type=kind)}, bases=(Event,))


def is_same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, list | tuple | collections.deque):
        return len(one) == len(other) and all(map(is_same, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(is_same(one[key], other[key]) for key in one)
    return bool(one == other)


def changed(cls: Any, values: list[Any]) -> Iterator[str]:
    """What a class that is not refused makes of values."""
    codec = Codec(cls)
    for value in values:
        sent = cls(v=value)
        if is_same(sent.v, value):  # else the class itself makes something else of it
            came = codec.decode(encode(sent)).v
            if not is_same(came, value):
                yield f"{value!r} arrives as {came!r}"


@pytest.mark.parametrize("make", [model, data, struct, attrs_class])
def test_a_value_of_a_union_comes_back_as_the_member_that_it_is_of(make: Any) -> None:
    found: list[str] = []
    passed = 0
    for (kind, values), (other, others) in permutations(TYPES, 2):
        try:
            cls = make(Union[kind, other])  # noqa: UP007
            Codec(cls)
        except (InvalidMessageError, TypeError):
            continue
        passed += 1
        found += (f"{kind} | {other}: {text}" for text in changed(cls, [*values, *others]))
    assert found == []
    assert passed > 1000


def test_what_is_refused_says_which_types_and_the_way_out() -> None:
    told = {
        Small | Twin: "Small could arrive as Twin",
        Path | uuid.UUID: "uuid could arrive as Path",
        pydantic.SecretStr | int: "SecretStr could arrive as int",
        list[str] | list[uuid.UUID]: r"list\[uuid\] could arrive as list\[str\]",
        Annotated[Small, pydantic.Field(title="x")] | Literal["a"] | Letters: r"Letters could arrive as Literal\['a'\]",
    }
    for kind, text in told.items():
        with pytest.raises(InvalidMessageError, match=f"Model.v is a union .* {text}; give them a discriminator"):
            Codec(model(kind))


class Cat(pydantic.BaseModel):
    kind: Literal["cat"] = pydantic.Field("cat", alias="Kind")
    n: int = 1


class Dog(pydantic.BaseModel):
    kind: Literal["dog"] = pydantic.Field("dog", alias="Kind")
    n: int = 1


class Enveloped(pydantic.BaseModel):
    kind: Literal["enveloped"] = "enveloped"
    inner: Annotated[Cat | Dog, pydantic.Field(discriminator="kind")]


class Checked(pydantic.BaseModel):
    name: str

    @pydantic.model_validator(mode="before")
    @classmethod
    def look(cls, value: Any) -> Any:
        return value


class Careful(Checked):
    name: str = ""
    kind: Literal[OtherLetters.A]


class Careless(Checked):
    name: str = ""
    kind: Literal[OtherLetters.ONE]


class Flags(enum.IntFlag):
    A = 1
    B = 2


class Node(pydantic.BaseModel):
    value: int
    next: "Node | Leaf | None" = None


class Leaf(pydantic.BaseModel):
    leaf: str


def kind_of(value: Any) -> Any:
    return value.get("kind", "cat") if isinstance(value, dict) else value.kind


def never_dog(value: Any) -> str:
    return "small" if isinstance(value, Small) else "twin"


KEPT: list[tuple[Any, list[Any]]] = [
    (Cat | Dog, [Dog(), Cat()]),
    (Cat | Enveloped | None, [Enveloped(inner=Dog()), None]),
    (Annotated[Cat | Dog, pydantic.Field(discriminator="kind")], [Dog(), Cat()]),
    (
        Annotated[
            Annotated[Cat, pydantic.Tag("cat")] | Annotated[Dog, pydantic.Tag("dog")], pydantic.Discriminator(kind_of)
        ],
        [Dog(), Cat()],
    ),
    (Node | Leaf, [Node(value=1, next=Node(value=2, next=Leaf(leaf="x"))), Leaf(leaf="x")]),
    (Checked | int | None, [Checked(name="x"), 5, None]),
    (ipaddress.IPv4Address | ipaddress.IPv6Address, [V4, V6]),
    (Decimal | int | None, [Decimal("5"), 5, None]),
    (dt.datetime | dt.timedelta, [NOON, dt.timedelta(1)]),
    (Literal[OtherLetters.A] | Literal["b"] | int, [OtherLetters.A, "b", 3]),
    (Literal[Numbers.ONE] | str, [Numbers.ONE, "1"]),
    (
        Annotated[Careful | Careless, pydantic.Field(discriminator="kind")],
        [Careless(kind=OtherLetters.ONE), Careful(kind=OtherLetters.A)],
    ),
    (Digits | Numbers, [*Digits, *Numbers]),
    (Struct | int | None, [Struct(1), 3, None]),
    (Flags | str, [Flags.A, Flags.A | Flags.B, "1"]),
    (list[Small] | Small, [[Small()], Small()]),
    (int | Annotated[str, pydantic.StringConstraints(min_length=1)], [1, "1"]),
    (Annotated[Decimal, pydantic.Field(gt=0)] | Annotated[Decimal, pydantic.Field(lt=-5)], [Decimal(5), Decimal(-6)]),
    (list[int] | list[str] | dict[str, list[int] | str], [[1], ["1"], {"a": "1", "b": [1]}]),
]


@pytest.mark.parametrize(("kind", "values"), KEPT)
def test_a_union_whose_members_can_be_told_apart_passes(kind: Any, values: list[Any]) -> None:
    assert list(changed(model(kind), values)) == []


class Answer(pydantic.BaseModel):
    class Setting(pydantic.BaseModel):
        either: Small | Twin

    settings: dict[str, list[Setting]] = {}


class Tuples(enum.Enum):
    ONE = (1, 2)


class Listing(pydantic.BaseModel):
    items: list[str]


class Choosing(pydantic.BaseModel):
    either: Literal["x", "5"] | int


class Loose(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    name: str


REFUSED = [
    pydantic.HttpUrl | pydantic.AnyUrl,
    pydantic.AnyUrl | pydantic.FileUrl,
    ipaddress.IPv4Interface | ipaddress.IPv4Address,
    pathlib.PurePath | pathlib.Path,
    Answer,
    Checked | Small,
    Loose | Small,
    dict[str, OtherLetters] | Small,
    Listing | dict[str, list[int]],
    Choosing | dict[str, int],
    tuple[Path, ...] | tuple[bytes, ...],
    tuple[pydantic.JsonValue] | list[None],
    Annotated[
        Annotated[Small, pydantic.Tag("small")] | Annotated[Twin, pydantic.Tag("twin")],
        pydantic.Discriminator(never_dog),
    ],
    Annotated[bytes | uuid.UUID, pydantic.Field(union_mode="left_to_right")],
    Annotated[int, pydantic.PlainSerializer(str)] | bytes,
    Annotated[Decimal, pydantic.BeforeValidator(str)] | uuid.UUID,
    collections.defaultdict[str, int] | dict[str, int],
    Nothing | None,
    Any | uuid.UUID,
    Any | Struct,
    Attrs | Any,
    list[Struct] | list[Any],
    Numbers | Digits,
    Sizes | Digits,
    Sizes | Decimal,
    Literal[Letters.A],
    Literal[Letters.A, "a"],
    Annotated[int, pydantic.Field(exclude_if=bool)],
    Literal[OtherLetters.A, "a"],
    Literal["a"] | Literal[OtherLetters.A],
    str | Literal[OtherLetters.A],
    int | list[Literal[Numbers.ONE]] | list[int],
    Tuples,
    Annotated[str, pydantic.Field(coerce_numbers_to_str=True)] | Numbers,
]


@pytest.mark.parametrize("kind", REFUSED, ids=range(len(REFUSED)))
def test_a_union_whose_members_cannot_be_told_apart_is_refused(kind: Any) -> None:
    told = r"look alike on the wire|arrive as their values|left out|more than text"
    with pytest.raises(InvalidMessageError, match=told):
        Codec(model(kind))
