"""What values come back as: those of pydantic models, generic classes, and the odd corners of the others."""

import collections
import datetime as dt
import decimal
import enum
import ipaddress
import pathlib
import uuid
from dataclasses import KW_ONLY, dataclass, field
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, NotRequired, TypeVar
from unittest.mock import ANY

import attrs
import msgspec
import pydantic
from places import Table, Told, failure, success
from typing_extensions import TypedDict
from values import Color, Level, Point, case, replying, sending

T = TypeVar("T")
ID = uuid.UUID(int=7)


class Aliased(pydantic.BaseModel):
    order_id: uuid.UUID = pydantic.Field(alias="orderId")


class Cat(pydantic.BaseModel):
    kind: Literal["cat"] = "cat"
    name: str


class Dog(pydantic.BaseModel):
    kind: Literal["dog"] = "dog"
    name: str


class Card(pydantic.BaseModel):
    number: str


class Iban(pydantic.BaseModel):
    iban: str


class Owner(pydantic.BaseModel):
    told: Annotated[Cat | Dog, pydantic.Field(discriminator="kind")]
    found: Cat | Dog
    pays: Card | Iban


class Scalars(pydantic.BaseModel):
    count: int | str = 0
    price: decimal.Decimal | float = 0.0
    address: ipaddress.IPv4Address | ipaddress.IPv6Address | None = None
    path: pathlib.Path | None = None
    url: pydantic.HttpUrl | None = None
    latest: collections.deque[int] = collections.deque()


class Secret(pydantic.BaseModel):
    secret: pydantic.SecretStr


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True, frozen=True)
    ids: frozenset[uuid.UUID]


class Tree(pydantic.BaseModel):
    value: int
    left: "Tree | None" = None


class Computing(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    a: int

    @pydantic.computed_field
    def twice(self) -> int:
        return 2 * self.a


class Roots(pydantic.RootModel[list[int]]):
    pass


class Page(pydantic.BaseModel, Generic[T]):
    items: list[T]


class Price(msgspec.Struct, frozen=True):
    amount: float


class Priced(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    price: Price


@dataclass(frozen=True)
class Envelope:
    model: Scalars


@dataclass(frozen=True)
class Box(Generic[T]):
    content: T


class Crate(msgspec.Struct, Generic[T]):
    content: list[T]


class Word(enum.StrEnum):
    HELLO = "hello"


class Rights(enum.IntEnum):
    READ = 1
    WRITE = 2


class Mixed(enum.Enum):
    TEXT = "1"
    NAME = "one"


class Array(msgspec.Struct, array_like=True):
    x: int
    y: str = ""


class Renamed(msgspec.Struct, rename="camel"):
    first_name: str


class Loose(TypedDict):
    a: int
    b: NotRequired[str]


@dataclass(frozen=True, slots=True)
class Slotted:
    x: int


@dataclass
class Keyword:
    _: KW_ONLY
    x: int
    tags: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Base:
    a: int


@dataclass(frozen=True)
class Derived(Base):
    b: str


@attrs.define
class Listed:
    items: list[Point]


class Nested(NamedTuple):
    point: Point
    more: tuple[int, ...] = ()


UserId = NewType("UserId", int)

VALUES: list[tuple[str, Any, Any]] = [
    ("a model whose field has an alias", Aliased, Aliased(orderId=ID)),
    (
        "models that can be told apart",
        Owner,
        Owner(told=Dog(name="a"), found=Dog(name="b"), pays=Iban(iban="DE1")),
    ),
    ("a text of digits beside an int", Scalars, Scalars(count="5")),
    ("a decimal beside a float", Scalars, Scalars(price=decimal.Decimal("1.50"))),
    ("a float beside a decimal", Scalars, Scalars(price=1.5)),
    ("an IPv6 address beside an IPv4 one", Scalars, Scalars(address=ipaddress.IPv6Address("::1"))),
    ("a path in a model", Scalars, Scalars(path=pathlib.Path("/a/b"))),
    ("a URL in a model", Scalars, Scalars(url=pydantic.HttpUrl("http://a.b/c"))),
    ("a deque in a model", Scalars, Scalars(latest=collections.deque([3, 2]))),
    ("a secret", Secret, Secret(secret=pydantic.SecretStr("s3cret"))),
    ("a strict and frozen model", Strict, Strict(ids=frozenset({ID}))),
    ("a model that holds its like", Tree, Tree(value=1, left=Tree(value=2))),
    ("a model that computes a field", Computing, Computing(a=2)),
    ("a root model", Roots, Roots([1, 2])),
    ("a generic model with its type", Page[uuid.UUID], Page[uuid.UUID](items=[ID])),
    ("a Struct in a model", Priced, Priced(price=Price(4.5))),
    ("a model in a dataclass", Envelope, Envelope(Scalars(count=3))),
    ("a generic dataclass with its type", Box[dt.date], Box(dt.date(2024, 1, 1))),
    ("a generic Struct with its type", Crate[uuid.UUID], Crate([ID])),
    ("a text enum", Word, Word.HELLO),
    ("an enum whose value looks like a number", Mixed, Mixed.TEXT),
    ("a dict with keys that are enums", dict[Color, list[Level]], {Color.RED: [Level.HIGH]}),
    ("a dict with keys that are UUIDs", dict[uuid.UUID, int], {ID: 1}),
    ("a dict with keys that are dates", dict[dt.date, str], {dt.date(2024, 1, 1): "a"}),
    ("a Literal", Literal["a", 1, None], 1),
    ("a Struct as an array", Array, Array(1, "a")),
    ("a Struct whose fields have other names", Renamed, Renamed("Ada")),
    ("a typed dict without what need not be there", Loose, {"a": 1}),
    ("a dataclass with slots", Slotted, Slotted(1)),
    ("a dataclass of keywords", Keyword, Keyword(x=1, tags=["a"])),
    ("a derived dataclass", Derived, Derived(1, "a")),
    ("an attrs class with a list of dataclasses", Listed, Listed([Point(1), Point(2)])),
    ("a named tuple with a dataclass", Nested, Nested(Point(1, 2.0), (3,))),
    ("a new type", UserId, UserId(5)),
    ("a number within its limits", Annotated[int, msgspec.Meta(ge=1)], 1),
    ("a set of frozen dataclasses", set[Point], {Point(1), Point(2)}),
    ("a union of a list, a number and nothing", list[int] | float | None, [1]),
    ("a bytearray", bytearray, bytearray(b"\xff")),
    ("a text with a zero and an emoji", str, "a\0\N{GRINNING FACE}"),
    ("a large text", str, "ab" * 50_000),
    ("no bytes", bytes, b""),
    ("an empty dict", dict[str, list[int]], {}),
    ("the least float", float, 5e-324),
    ("a decimal in exponents", decimal.Decimal, decimal.Decimal("1E+30")),
    ("a date long ago", dt.date, dt.date(1, 1, 1)),
    ("the last microsecond of a day", dt.datetime, dt.datetime(2024, 2, 29, 23, 59, 59, 999_999)),
    ("a time in UTC", dt.time, dt.time(12, tzinfo=dt.UTC)),
    ("a duration that is negative", dt.timedelta, dt.timedelta(days=-1, seconds=5)),
]

INVALID = failure("invalid_message", ANY)
CHANGED: list[tuple[str, Any, Any, Told]] = [
    ("a bool for an int is refused", int, True, INVALID),
    ("a float for an int is refused", int, 1.5, INVALID),
    ("a number beyond its limits is refused", Annotated[int, msgspec.Meta(ge=1)], 0, INVALID),
    ("what is no value of a Literal is refused", Literal["a"], "b", INVALID),
    ("a typed dict without a key is refused", Loose, {}, INVALID),
    ("a tuple of another length is refused", tuple[int, int], (1, 2, 3), INVALID),
    ("a set for Any comes back as a list", Any, {1}, success([1])),
    ("a named tuple for a tuple comes back as a tuple", tuple[int, int], Nested(1, 2), success((1, 2))),  # type: ignore[arg-type]
    ("a UUID for Any comes back as a text", Any, ID, success(str(ID))),
    ("a default dict for a dict comes back as a dict", dict[str, int], collections.Counter("a"), success({"a": 1})),
]

TABLE = Table(
    case(f"{name} that is sent and answered", sending(kind, value), success(value)) for name, kind, value in VALUES
)
CHANGES = Table(case(name, replying(kind, value), means) for name, kind, value, means in CHANGED)
