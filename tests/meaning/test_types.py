"""What a codec would change is refused before the first message; names are looked up where they were written."""

import abc
import enum
import sys
import textwrap
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from types import new_class
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    NotRequired,
    ParamSpec,
    Protocol,
    TypedDict,
    TypeVar,
    TypeVarTuple,
)

import attrs
import msgspec
import pydantic
import pytest
import rows_archive
import rows_orders

from catga import CatgaResult, Event, Failure, Mediator, Request, Success, add_cluster
from catga.codec import Codec, encode
from catga.errors import InvalidMessageError
from catga.messages import is_request, response_type

T = TypeVar("T")
U = TypeVar("U")
B = TypeVar("B", bound=int)


@dataclass(frozen=True)
class Box(Generic[T]):
    content: T


@dataclass(frozen=True)
class Pair(Box[T], Generic[T, U]):
    other: U


class Page(msgspec.Struct, Request[list[T]], Generic[T], frozen=True):
    like: T


class Animals(Page[rows_orders.Row], frozen=True):
    """Says what it is a page of."""


class Abstract(abc.ABC):
    @abc.abstractmethod
    def method(self) -> int: ...


class Shape(Protocol):
    number: int


class Pt(NamedTuple):
    x: Any


class Loose(TypedDict, Generic[T]):
    x: T


@attrs.frozen
class SelfMade(Event):
    number: int = 1
    twice: int = attrs.Factory(lambda self: 2 * self.number, takes_self=True)


@dataclass(frozen=True)
class BadReference(Request["rows_orders.Missing"]):  # type: ignore[name-defined]
    number: int


def answered_with(kind: Any) -> type:
    return dataclass(frozen=True)(new_class("Asked", (Request[kind],)))


def holding(kind: Any) -> type:
    return dataclass(frozen=True)(
        new_class("Held", (Event,), exec_body=lambda ns: ns.update(__annotations__={"x": kind}))
    )


@pytest.mark.parametrize(
    "kind",
    [T, list[T], Box, Box[T], list[Box[T]], Pair[int, U], Box[Pair[U, int]], Loose, dict[str, Loose[T]]],
    ids=str,
)
@pytest.mark.parametrize("make", [answered_with, holding])
def test_an_open_type_variable_is_refused(make: Callable[[Any], type], kind: Any) -> None:
    with pytest.raises(InvalidMessageError, match=r"type variable|does not say what it is answered with"):
        Codec(make(kind))


@pytest.mark.parametrize(
    "kind",
    [Box[int], Box[B], Pair[int, str], Box[Pair[int, list[str]]], Loose[int], Pt, Box[Any], list[rows_orders.Row]],
    ids=str,
)
@pytest.mark.parametrize("make", [answered_with, holding])
def test_a_type_variable_with_a_type_is_none_that_is_open(make: Callable[[Any], type], kind: Any) -> None:
    Codec(make(kind))


@dataclass(frozen=True)
class OrAny(Generic[T]):
    content: T | Any


@dataclass(frozen=True)
class OrDate(Generic[T]):
    content: T | date


class Flat(TypedDict):
    number: int
    names: NotRequired[list[str]]


class Deep(TypedDict):
    row: rows_orders.Row


class Level(enum.IntEnum):
    LOW = 1


Number = NewType("Number", int)
Rows = NewType("Rows", list[rows_orders.Row | Any])

CHANGED = [
    date | Any,
    list[Any | rows_orders.Row],
    Box[Any | date],
    list[rows_orders.Row] | Any,
    dict[str, rows_orders.Row] | Any,
    list[int | list[date]] | Any,
    Mapping[str, date] | Any,
    dict[date, int] | Any,
    tuple[int, int] | Any,
    set[int] | Any,
    Deep | Any,
    Level | Any,
    Literal[Level.LOW] | Any,
    NewType("Day", date) | Any,
    Annotated[date, "a day"] | Any,
    Annotated[Any, "whatever"] | date,
    OrAny[date],
    OrDate[Any],
    Loose[date] | Any,
    Rows,
]


@pytest.mark.parametrize("kind", CHANGED, ids=str)
@pytest.mark.parametrize("make", [answered_with, holding])
def test_what_would_arrive_as_plain_data_beside_any_is_refused(make: Callable[[Any], type], kind: Any) -> None:
    with pytest.raises(InvalidMessageError, match="beside Any would arrive as plain data"):
        Codec(make(kind))


PLAIN = [
    (Any, 1),
    (Any | None, None),
    (int | Any, 1),
    (dict[str, Any] | Any, {"a": [1]}),
    (list[Any], [1.5]),
    (list | dict | Any, []),
    (list[None] | Any, [None]),
    (Number | Any, Number(1)),
    (Annotated[int, msgspec.Meta(gt=0)] | Any, 1),
    (Literal["a", 1] | Any, "a"),
    (Flat | Any, {"number": 1, "names": ["a"]}),
    (Loose[int] | Any, {"x": 1}),
    (Sequence[int] | Any, [1]),
    (Mapping[str, list[Number]] | Any, {"a": [1]}),
    (dict[tuple[int, tuple[str, ...]], bytes] | Any, {(1, ("a", "b")): b"c"}),
]


@pytest.mark.parametrize(("kind", "value"), PLAIN, ids=str)
@pytest.mark.parametrize("make", [answered_with, holding])
def test_plain_data_beside_any_is_not_refused(make: Callable[[Any], type], kind: Any, value: Any) -> None:
    codec = Codec(make(kind))
    found = codec.decode_response(encode(value)) if is_request(codec.cls) else codec.copy(codec.cls(value)).x
    assert (found, type(found)) == (value, type(value))


def test_a_variable_that_is_plain_data_beside_any_is_not_refused() -> None:
    Codec(holding(OrAny[int]))
    Codec(holding(OrDate[int]))


@pytest.mark.skipif(sys.version_info < (3, 12), reason="a statement of Python 3.12")
def test_an_alias_beside_any_is_what_it_stands_for() -> None:
    names: dict[str, Any] = {"Any": Any, "date": date}
    exec("type X = int\ntype L[T] = list[T]\ntype A = Any\ntype D = Any | date", names)  # noqa: S102
    x, many, anything, day = (names[name] for name in "XLAD")
    for kind in (x | Any, many[int] | Any, many[x] | anything, OrAny[many[int]]):
        Codec(answered_with(kind))
    for kind in (many[date] | Any, anything | date, day | None, OrAny[many[date]]):
        with pytest.raises(InvalidMessageError, match="beside Any would arrive as plain data"):
            Codec(answered_with(kind))


class Carton(pydantic.BaseModel, Generic[T]):
    content: T


class Cartons(pydantic.BaseModel):
    cartons: list[Carton]  # type: ignore[type-arg]


class Numbered(pydantic.BaseModel, Generic[B]):
    number: B


@pytest.mark.parametrize("kind", [Carton, Cartons, Box[Carton], dict[str, Carton]], ids=str)  # type: ignore[type-arg]
@pytest.mark.parametrize("make", [answered_with, holding])
def test_a_generic_model_without_its_type_is_refused(make: Callable[[Any], type], kind: Any) -> None:
    """pydantic would take anything for it, so that a date arrives as a text."""
    with pytest.raises(InvalidMessageError, match="leaves the type variable ~T open"):
        Codec(make(kind))


@pytest.mark.parametrize(
    "kind", [Carton[int], Carton[Any], Carton[list[Carton[str]]], Numbered, Box[Numbered]], ids=str
)  # type: ignore[type-arg]
def test_a_generic_model_with_its_type_is_not_refused(kind: Any) -> None:
    Codec(answered_with(kind))


@pytest.mark.parametrize(
    "kind",
    [CatgaResult[int], Success[int], Failure, int | Failure, Annotated[Success[int], "a note"], Success[int] | None],
    ids=str,
)
def test_a_request_that_is_answered_with_a_result_is_refused_in_words(kind: Any) -> None:
    with pytest.raises(InvalidMessageError, match=r"names a result: .*Request\[int\]"):
        Codec(answered_with(kind))


@pytest.mark.parametrize("kind", [dict[str, Success[int]], list[Success[int]], Box[Success[int]]], ids=str)
def test_a_result_within_a_value_is_none_of_its_request(kind: Any) -> None:
    Codec(answered_with(kind))


Several = TypeVarTuple("Several")
Parameters = ParamSpec("Parameters")


class Row(pydantic.BaseModel, Generic[*Several]):
    number: int


class Called(pydantic.BaseModel, Generic[Parameters]):
    number: int


@pytest.mark.parametrize("kind", [Row, list[Row], Called], ids=str)  # type: ignore[type-arg]
def test_a_model_of_several_types_that_nobody_says_is_refused_in_words(kind: Any) -> None:
    with pytest.raises(InvalidMessageError, match=r"leaves the type variable .* open"):
        Codec(answered_with(kind))


def test_a_model_of_several_types_is_not_refused() -> None:
    Codec(answered_with(Row[int]))


@dataclass
class Of(Generic[*Several]):
    items: tuple[*Several]


def test_an_error_without_a_text_is_told_by_its_name() -> None:
    """msgspec asserts that there are no such variables."""
    with pytest.raises(InvalidMessageError, match=r"cannot travel: \w"):
        Codec(answered_with(Of[int, str]))


def test_a_generic_message_is_refused_and_the_class_that_says_its_type_is_not() -> None:
    with pytest.raises(InvalidMessageError, match="type variable"):
        Codec(Page)
    codec = Codec(Animals)
    assert codec.decode_response(msgspec.msgpack.encode([{"number": 1, "price": 2.0}])) == [rows_orders.Row(1, 2.0)]


@pytest.mark.parametrize(
    "kind",
    [Abstract, Shape, object, Iterable[int], Iterator[int], AsyncIterator[int], complex, Exception, type[int]],
    ids=str,
)
@pytest.mark.parametrize("make", [answered_with, holding])
def test_what_cannot_be_decoded_is_refused(make: Callable[[Any], type], kind: Any) -> None:
    with pytest.raises(InvalidMessageError, match="cannot travel"):
        Codec(make(kind))


def test_a_name_is_looked_up_in_the_module_that_wrote_it() -> None:
    for cls in (rows_orders.Find, rows_archive.FindOld):
        assert response_type(cls) is rows_orders.Row
    for cls in (rows_orders.FindAll, rows_archive.FindAllOld):
        assert response_type(cls) == list[rows_orders.Row]


async def test_a_derived_request_is_answered_with_the_class_that_its_base_means() -> None:
    app, url = Mediator(), f"memory://{uuid.uuid4().hex}"
    app.handles(rows_archive.FindAllOld)(lambda find: [rows_orders.Row(find.number, 2.0)])
    async with add_cluster(app, url, node_id="worker"), add_cluster(Mediator(), url, node_id="caller") as caller:
        assert (await caller.send(rows_archive.FindAllOld(1))).unwrap() == [rows_orders.Row(1, 2.0)]


@pytest.mark.parametrize("cls", [SelfMade, BadReference])
async def test_whatever_goes_wrong_with_a_codec_is_an_invalid_message(cls: type) -> None:
    app = Mediator()
    app.handles(cls)(lambda _: 1)
    assert [problem.kind for problem in app.check()] == ["cannot travel"]
    with pytest.raises(InvalidMessageError):
        await add_cluster(app, f"memory://{uuid.uuid4().hex}").start()
    async with add_cluster(Mediator(), f"memory://{uuid.uuid4().hex}") as caller:
        message: Any = cls(1)
        result = await (caller.publish(message) if issubclass(cls, Event) else caller.send(message))
        assert isinstance(result.error, InvalidMessageError)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="a statement of Python 3.12")
def test_an_alias_with_its_types_leaves_no_variable_open() -> None:
    names: dict[str, Any] = {}
    exec("type Pairs[K, V] = dict[K, list[V]]\ntype Named[V] = Pairs[str, V]", names)  # noqa: S102
    pairs, named = names["Pairs"], names["Named"]
    for kind in (pairs[str, int], named[int], list[named[int]]):
        Codec(answered_with(kind))
    with pytest.raises(InvalidMessageError, match="type variable"):
        Codec(answered_with(pairs))


class Two(pydantic.BaseModel, Request[dict[U, T]], Generic[T, U]):
    value: T


class Half(Two[int, U], Generic[U]):
    pass


class Whole(Half[str]):
    pass


@pytest.mark.parametrize("cls", [Two[int, str], Half[str], Whole])
def test_a_generic_model_says_what_its_request_is_answered_with(cls: type) -> None:
    assert response_type(cls) == dict[str, int]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="a statement of Python 3.12")
def test_a_recursive_alias_is_refused_in_words() -> None:
    names: dict[str, Any] = {"Request": Request, "dataclass": dataclass, "__name__": __name__}
    text = """
        type Tree = dict[str, Tree] | int
        @dataclass(frozen=True)
        class Grow(Request[int]):
            tree: Tree
    """
    exec(textwrap.dedent(text), names)  # noqa: S102
    with pytest.raises(InvalidMessageError, match="cannot travel"):
        Codec(names["Grow"])
