"""Types of messages and answers, and values of them, that hypothesis makes up."""

import datetime as dt
import decimal
import enum
import ipaddress
import pathlib
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import make_dataclass
from functools import cache
from types import new_class
from typing import Any, Generic, Literal, NamedTuple, TypeVar, Union

import attrs
import msgspec
import pydantic
from hypothesis import strategies as st
from typing_extensions import TypedDict

from catga import Request

T = TypeVar("T")
NAMES = ("a", "b_2", "type")
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=4) | st.sampled_from(
    ["5", "1.5", "true", "2024-01-01", "12:00:00", "PT1S", "a", str(uuid.UUID(int=1))]
)


class Kind(NamedTuple):
    """A type, and a strategy for its values."""

    type: Any
    values: st.SearchStrategy[Any]


class Letters(enum.Enum):
    A = "a"
    B = "b"


class Words(enum.StrEnum):
    A = "a"
    NUMBER = "5"


class Levels(enum.IntEnum):
    LOW = 1
    HIGH = 5


class Numbers(enum.Enum):
    ONE = 1
    TWO = 2


def fixed(kind: Any, *values: Any) -> Kind:
    return Kind(kind, st.sampled_from(values))


UTC = st.just(dt.UTC)
SCALARS = (
    fixed(None, None),
    fixed(bool, True, False),
    Kind(int, st.integers(-(2**63), 2**64 - 1)),
    Kind(float, st.floats(allow_nan=False)),
    Kind(str, TEXTS),
    Kind(bytes, st.binary(max_size=4)),
    Kind(decimal.Decimal, st.decimals(allow_nan=False, allow_infinity=False)),
    Kind(dt.datetime, st.datetimes() | st.datetimes(timezones=UTC)),
    Kind(dt.date, st.dates()),
    Kind(dt.time, st.times()),
    Kind(dt.timedelta, st.timedeltas()),
    Kind(uuid.UUID, st.uuids()),
    *(fixed(kind, *kind) for kind in (Letters, Words, Levels, Numbers)),
    fixed(Literal["a", 5], "a", 5),
    fixed(Literal[None, "b"], None, "b"),
)
KEYS = tuple(kind for kind in SCALARS if kind.type not in (None, float, Literal[None, "b"]))


@cache
def kinds(depth: int = 3, *, hashable: bool = False) -> st.SearchStrategy[Kind]:
    """Types that are nested so deep; `hashable`, those of what a set can hold."""
    scalars = st.sampled_from(SCALARS)
    if depth == 0:
        return scalars
    made = st.sampled_from(HASHABLE if hashable else MAKERS).flatmap(lambda make: make(depth - 1, hashable))
    return scalars | made | made


@cache
def several(depth: int, hashable: bool, least: int = 1) -> st.SearchStrategy[list[Kind]]:
    return st.lists(kinds(depth, hashable=hashable), min_size=least, max_size=2)


def joined(members: list[Kind]) -> Kind:
    return Kind(Union[tuple(kind.type for kind in members)], st.one_of(*(kind.values for kind in members)))  # noqa: UP007


@cache
def optional(depth: int, hashable: bool) -> st.SearchStrategy[Kind]:
    return kinds(depth, hashable=hashable).map(lambda kind: joined([kind, fixed(None, None)]))


@cache
def union(depth: int, hashable: bool) -> st.SearchStrategy[Kind]:
    return several(depth, hashable, 2).map(joined)


@cache
def lists(depth: int, hashable: bool) -> st.SearchStrategy[Kind]:
    return kinds(depth).map(lambda kind: Kind(list[kind.type], st.lists(kind.values, max_size=2)))


@cache
def sets(depth: int, hashable: bool) -> st.SearchStrategy[Kind]:
    return kinds(depth, hashable=True).map(lambda kind: Kind(set[kind.type], st.sets(kind.values, max_size=2)))


@cache
def frozen_sets(depth: int, hashable: bool) -> st.SearchStrategy[Kind]:
    items = kinds(depth, hashable=True)
    return items.map(lambda kind: Kind(frozenset[kind.type], st.frozensets(kind.values, max_size=2)))


@cache
def tuples(depth: int, hashable: bool) -> st.SearchStrategy[Kind]:
    def make(items: list[Kind]) -> Kind:
        return Kind(tuple[tuple(kind.type for kind in items)], st.tuples(*(kind.values for kind in items)))

    return several(depth, hashable).map(make)


@cache
def long_tuples(depth: int, hashable: bool) -> st.SearchStrategy[Kind]:
    items = kinds(depth, hashable=hashable)
    return items.map(lambda kind: Kind(tuple[kind.type, ...], st.lists(kind.values, max_size=2).map(tuple)))


@cache
def dicts(depth: int, hashable: bool) -> st.SearchStrategy[Kind]:
    def make(key: Kind, value: Kind) -> Kind:
        return Kind(dict[key.type, value.type], st.dictionaries(key.values, value.values, max_size=2))

    return st.builds(make, st.sampled_from(KEYS), kinds(depth))


# -- classes ------------------------------------------------------------------------------------------

Fields = dict[str, Any]


def data(name: str, fields: Fields, *bases: Any, frozen: bool = False, slots: bool = False) -> Any:
    return make_dataclass(name, fields.items(), bases=bases, frozen=frozen, slots=slots)


def struct(name: str, fields: Fields, *bases: Any, **options: Any) -> Any:
    names = {"__annotations__": fields, "__module__": __name__}
    return new_class(name, (msgspec.Struct, *bases), options, lambda made: made.update(names))


def attrs_class(name: str, fields: Fields, *bases: Any, frozen: bool = False) -> Any:
    attributes = {name: attrs.field(type=kind or type(None)) for name, kind in fields.items()}
    return attrs.make_class(name, attributes, bases, frozen=frozen)


def model(name: str, fields: Fields, *bases: Any, **options: Any) -> Any:
    class Base(pydantic.BaseModel, *bases):  # type: ignore[misc]
        model_config = pydantic.ConfigDict(arbitrary_types_allowed=True, **options)

    return pydantic.create_model(name, __base__=Base, **{f: (kind, ...) for f, kind in fields.items()})


def loose_model(name: str, fields: Fields) -> Any:
    """A model that can be made of nothing."""
    config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    return pydantic.create_model(name, __config__=config, **{f: (kind, None) for f, kind in fields.items()})


def named_tuple(name: str, fields: Fields) -> Any:
    return NamedTuple(name, fields.items())  # type: ignore[misc]


def typed_dict(name: str, fields: Fields, *, total: bool = True) -> Any:
    return TypedDict(name, fields, total=total)  # type: ignore[operator]


def with_options(make: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    return lambda name, fields, *bases: make(name, fields, *bases, **options)


MESSAGES = (data, with_options(data, frozen=True, slots=True), with_options(struct, frozen=True), attrs_class, model)
CLASSES = (
    *(*MESSAGES, named_tuple, typed_dict, with_options(struct, array_like=True)),
    *(with_options(struct, tag=True, tag_field="its_tag"), loose_model),
    with_options(typed_dict, total=False),
    with_options(struct, rename="camel", forbid_unknown_fields=True),
    *(with_options(model, extra="forbid"), with_options(model, strict=True), with_options(attrs_class, frozen=True)),
)
FROZEN = (
    with_options(data, frozen=True),
    with_options(struct, frozen=True),
    with_options(attrs_class, frozen=True),
    with_options(model, frozen=True),
    named_tuple,
)


@cache
def classes(depth: int, hashable: bool) -> st.SearchStrategy[Kind]:
    def make(build: Any, members: list[Kind], number: int) -> Kind:
        fields = dict(zip(NAMES, members, strict=False))
        cls = build(f"Class{number}", {name: kind.type for name, kind in fields.items()})
        return Kind(cls, st.builds(cls, **{name: kind.values for name, kind in fields.items()}))

    makers = st.sampled_from(FROZEN if hashable else CLASSES)
    return st.builds(make, makers, several(depth, hashable), st.integers(0, 2))


@cache
def generics(depth: int, hashable: bool) -> st.SearchStrategy[Kind]:
    """A generic class with an argument."""

    def make(build: Any, inner: Kind) -> Kind:
        box = build("Box", {"content": T, "more": list[T]}, Generic[T])
        values = st.builds(box, content=inner.values, more=st.lists(inner.values, max_size=2))
        if build is not model:
            return Kind(box[inner.type], values)
        said = box[inner.type]
        return Kind(said, st.builds(said, content=inner.values, more=st.lists(inner.values, max_size=2)))

    return st.builds(make, st.sampled_from((data, struct, attrs_class, model)), kinds(depth))


@cache
def rich_models(depth: int, hashable: bool) -> st.SearchStrategy[Kind]:
    """A pydantic model with a union of what is for pydantic alone."""

    def make(members: list[Kind], containers: list[Any]) -> Kind:
        held = joined([contain(kind) for contain, kind in zip(containers, members, strict=False)])
        cls = model("Rich", {"either": held.type}, frozen=True)
        return Kind(cls, st.builds(cls, either=held.values))

    members = st.lists(st.sampled_from(RICH) | kinds(depth, hashable=hashable), min_size=1, max_size=2)
    return st.builds(make, members, st.lists(st.sampled_from(CONTAINERS[: 1 if hashable else None]), min_size=2))


RICH = (
    *SCALARS,
    fixed(pathlib.Path, pathlib.Path("a"), pathlib.Path("5"), pathlib.Path("2024-01-01")),
    fixed(ipaddress.IPv4Address, ipaddress.IPv4Address("1.2.3.4")),
    fixed(ipaddress.IPv6Address, ipaddress.IPv6Address("::1")),
    fixed(pydantic.AnyUrl, pydantic.AnyUrl("http://a.b/"), pydantic.AnyUrl(f"urn:uuid:{uuid.UUID(int=1)}")),
    fixed(pydantic.SecretStr, pydantic.SecretStr("5"), pydantic.SecretStr("a")),
    fixed(complex, 5 + 0j, 1.5 - 2j),
)
CONTAINERS: tuple[Callable[[Kind], Kind], ...] = (
    lambda kind: kind,
    lambda kind: Kind(list[kind.type], st.lists(kind.values, max_size=2)),
    lambda kind: Kind(deque[kind.type], st.lists(kind.values, max_size=2).map(deque)),
    lambda kind: Kind(tuple[kind.type, ...], st.lists(kind.values, max_size=2).map(tuple)),
    lambda kind: Kind(dict[str, kind.type], st.dictionaries(TEXTS, kind.values, max_size=2)),
)
HASHABLE = (optional, union, union, tuples, long_tuples, frozen_sets, classes)
MAKERS = (*HASHABLE, rich_models, lists, sets, dicts, generics, classes, classes)


class Sent(NamedTuple):
    """A request, and an answer."""

    request: Any
    answer: Any


@st.composite
def exchanges(draw: st.DrawFn) -> tuple[type, list[Sent]]:
    """A class of requests, and some of them with answers."""
    answer = draw(kinds())
    fields = dict(zip(NAMES, draw(several(3, False)), strict=False))
    cls = draw(st.sampled_from(MESSAGES))(
        "Asked", {name: kind.type for name, kind in fields.items()}, Request[answer.type]
    )
    requests = st.builds(cls, **{name: kind.values for name, kind in fields.items()})
    return cls, draw(st.lists(st.builds(Sent, requests, answer.values), min_size=1, max_size=2))
