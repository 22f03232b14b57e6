"""What a pydantic model can say comes back equal, or is refused before it travels."""

import collections
import dataclasses
import ipaddress
import re
import sys
import uuid
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar
from zoneinfo import ZoneInfo

import attrs
import msgspec
import pydantic
import pytest
from typing_extensions import TypedDict

from catga import Mediator, Request
from catga.codec import Codec, encode
from catga.errors import InvalidMessageError

T = TypeVar("T")
ID = uuid.uuid4()
NOW = datetime.now(UTC)


class Colour(Enum):
    RED = "red"
    ONE = 1


class Level(IntEnum):
    LOW = 1


class Point(NamedTuple):
    x: int
    day: date


class Typed(TypedDict):
    x: int
    at: datetime


@dataclasses.dataclass
class Plain:
    x: int
    id: uuid.UUID


@pydantic.dataclasses.dataclass
class Aliased:
    x: int = pydantic.Field(alias="X")


class Inner(pydantic.BaseModel):
    a: int = pydantic.Field(alias="A")
    type: str = "a field of this name"
    id: uuid.UUID = ID


class Cat(pydantic.BaseModel):
    kind: Literal["cat"] = "cat"
    n: int = 1


class Dog(pydantic.BaseModel):
    kind: Literal["dog"] = "dog"
    n: int = 1


class Numbers(pydantic.RootModel[set[int]]):
    pass


class Struct(msgspec.Struct):
    x: int
    inner: Inner | None = None


class FrozenRoot(pydantic.RootModel[int]):
    model_config = pydantic.ConfigDict(frozen=True)


class FrozenStruct(msgspec.Struct, frozen=True):
    x: int


@attrs.define
class Attrs:
    x: int
    struct: Struct | None = None


class Holder(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    struct: Struct
    attrs: dict[str, list[Attrs]] = {}
    other: "Holder | None" = None


class Structs(pydantic.RootModel[Any]):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    root: list[Struct]


class Page(pydantic.BaseModel, Generic[T]):
    items: list[T]


class Weird:
    pass


def model_of(kind: Any, **config: Any) -> Any:
    """A request with a field of that type, which has an alias."""

    class Base(pydantic.BaseModel, Request[int]):
        model_config = pydantic.ConfigDict(arbitrary_types_allowed=True, extra="forbid", **config)

    return pydantic.create_model("Model", __base__=Base, field=(kind, pydantic.Field(alias="itsField")), count=(int, 3))


KEPT: list[tuple[Any, Any]] = [
    (uuid.UUID, ID),
    (datetime, NOW),
    (datetime, NOW.replace(tzinfo=None)),
    (datetime, datetime.now(timezone(timedelta(hours=2)))),
    (date, NOW.date()),
    (time, NOW.timetz()),
    (timedelta, timedelta(days=-1, seconds=3, microseconds=5)),
    (set[int], {1, 2}),
    (frozenset[str], frozenset("ab")),
    (tuple[int, str], (1, "a")),
    (tuple[uuid.UUID, ...], (ID,)),
    (Decimal, Decimal("1.50")),
    (bytes, b"\xff\x00"),
    (bytearray, bytearray(b"\xff")),
    (float, float("inf")),
    (int, 2**63),
    (Path, Path("/a/b")),
    (PurePosixPath, PurePosixPath("/a/b")),
    (PureWindowsPath, PureWindowsPath("c:/a")),
    (dict[PurePath, ZoneInfo], {PurePath("a"): ZoneInfo("Europe/Berlin")}),
    (ipaddress.IPv4Address, ipaddress.ip_address("1.2.3.4")),
    (ipaddress.IPv6Network, ipaddress.ip_network("::/8")),
    (pydantic.HttpUrl, "http://a.b/"),
    (pydantic.PostgresDsn, "postgres://a:b@c/d"),
    (pydantic.SecretStr, "s3cret"),
    (pydantic.SecretBytes, b"\xff"),
    (pydantic.Secret[date], pydantic.Secret[date](NOW.date())),
    (re.Pattern[str], re.compile("a+")),
    (deque[int], deque([1, 2])),
    (deque[bytes], deque([b"\xff"])),
    (Sequence[int], [1, 2]),
    (Mapping[str, int], {"a": 1}),
    (collections.defaultdict[str, int], {"a": 1}),
    (collections.Counter[str], collections.Counter("aab")),
    (Colour, Colour.RED),
    (Colour, Colour.ONE),
    (Level, Level.LOW),
    (Plain, Plain(1, ID)),
    (Aliased, Aliased(X=1)),  # pyright: ignore
    (Inner, Inner(A=1)),
    (list[Inner | None], [None, Inner(A=1)]),
    (dict[date, Inner], {NOW.date(): Inner(A=1)}),
    (Annotated[Cat | Dog, pydantic.Field(discriminator="kind")], Dog(n=3)),
    (Cat | Dog, Dog(n=3)),
    (Typed, {"x": 1, "at": NOW}),
    (Point, Point(1, NOW.date())),
    (Numbers, Numbers({1})),
    (Page[uuid.UUID], Page[uuid.UUID](items=[ID])),
    (pydantic.Json[list[int]], "[1,2]"),
    (pydantic.ByteSize, "1kb"),
    (pydantic.Base64Bytes, b"aGk="),
    (dict[int, str], {1: "a"}),
    (set[tuple[int, frozenset[str]]], {(1, frozenset("a"))}),
    (set[Point], {Point(1, NOW.date())}),
    (dict[FrozenRoot, int], {FrozenRoot(1): 2}),
    (set[FrozenStruct], {FrozenStruct(1)}),
    (dict[uuid.UUID, str], {ID: "a"}),
    (dict[tuple[int, int], str], {(1, 2): "a"}),
    (dict[Colour, int], {Colour.RED: 1}),
    (Any, {"a": [1, b"x", None]}),
    (int | str, "5"),
    (int | float | bool | None, True),
    (int | bytes | str, "5"),
    (pydantic.JsonValue, {"a": [1, None, {"b": 2.5}]}),
    (float | uuid.UUID | None, ID),
    (Decimal | float, Decimal("1.5")),
    (bytes | str, b"x"),
    (uuid.UUID | Literal["none"], "none"),
    (Struct, Struct(1, Inner(A=2))),
    (Struct | None, Struct(1)),
    (Attrs, Attrs(1, Struct(2))),
    (dict[str, Attrs], {"a": Attrs(1)}),
    (Holder, Holder(struct=Struct(1), attrs={"a": [Attrs(2)]}, other=Holder(struct=Struct(3)))),
    (Structs, Structs([Struct(1)])),
]


@pytest.mark.parametrize("is_strict", [False, True])
@pytest.mark.parametrize(("kind", "value"), KEPT)
def test_a_field_comes_back_equal(kind: Any, value: Any, is_strict: bool) -> None:
    cls = model_of(kind, strict=is_strict)
    sent = cls.model_validate({"itsField": value}, strict=False)
    came = Codec(cls).decode(encode(sent))
    assert came == sent
    assert type(came.field) is type(sent.field)
    assert Mediator().check(cls)[1:] == []


class Frozen(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True)
    n: int = 1


@dataclasses.dataclass(frozen=True)
class FrozenData:
    n: int = 1


@pytest.mark.parametrize(
    "kind", [set[Frozen], frozenset[FrozenData], dict[Frozen, int], set[tuple[Frozen, ...]], list[set[Frozen | None]]]
)
def test_what_pydantic_writes_as_dicts_is_refused_in_a_set(kind: Any) -> None:
    with pytest.raises(InvalidMessageError, match=r"Model\.field holds Frozen.* in a set or as a key"):
        Codec(model_of(kind))


LOST = [
    uuid.UUID | str,
    list[pydantic.HttpUrl | str],
    Path | str,
    Colour | str,
    datetime | str,
    date | datetime,
    float | Decimal,
    int | Path,
    bytes | uuid.UUID,
    Level | int,
    dict[str, set[int] | list[int]],
    set[int] | frozenset[int],
    Inner | dict[str, Any],
    Annotated[int, pydantic.Field(exclude=True)],
]


@pytest.mark.parametrize("kind", LOST)
def test_what_would_come_back_as_something_else_is_refused(kind: Any) -> None:
    cls = model_of(kind)
    with pytest.raises(InvalidMessageError, match=r"Model.* cannot travel: Model\.field is"):
        Codec(cls)
    assert [problem.kind for problem in Mediator().check(cls)] == ["no handler", "cannot travel"]


@pytest.mark.parametrize("kind", [Weird, Callable[[], int], type[int], Iterable[int], list[Hashable], Sequence[Weird]])
def test_what_cannot_be_encoded_is_found_by_check(kind: Any) -> None:
    problems = Mediator().check(model_of(kind))
    assert [problem.kind for problem in problems] == ["no handler", "cannot travel"]
    assert "Model.field holds a" in str(problems[1])


@pytest.mark.parametrize("kind", [list[pydantic.SecretStr], Annotated[Weird, pydantic.PlainSerializer(str)]])
def test_what_has_a_serializer_is_left_to_it(kind: Any) -> None:
    assert Mediator().check(model_of(kind))[1:] == []


@pytest.mark.parametrize("kind", [Struct | Attrs, Struct | Inner, Struct | None | Weird])
def test_a_union_that_nobody_can_make_is_refused(kind: Any) -> None:
    with pytest.raises(InvalidMessageError, match=r"Model cannot travel: (Type unions|Model.field holds)"):
        Codec(model_of(kind))


def test_a_model_in_anything_else_is_looked_into() -> None:
    lost = model_of(uuid.UUID | str)

    @dataclasses.dataclass
    class Outside(Request[int]):
        models: dict[str, list[lost]]  # type: ignore[valid-type]

    class Answered(msgspec.Struct, Request[lost]):  # type: ignore[valid-type]
        pass

    for cls in (Outside, Answered):
        with pytest.raises(InvalidMessageError, match="look alike on the wire"):
            Codec(cls)


def test_a_model_that_is_within_a_model_or_in_itself_is_looked_into() -> None:
    class Deep(pydantic.BaseModel, Request[int]):
        more: "list[Deep]" = []
        last: Annotated[Cat | Dog, pydantic.Field(discriminator="kind")]
        page: Page[uuid.UUID | str]

    with pytest.raises(InvalidMessageError, match=r"Page.*items is a union"):
        Codec(Deep)


def test_what_a_model_computes_does_not_travel() -> None:
    class Computing(pydantic.BaseModel, Request[int]):
        model_config = pydantic.ConfigDict(extra="forbid")
        a: int

        @pydantic.computed_field
        def b(self) -> int:
            return 2 * self.a

    assert Codec(Computing).decode(encode(Computing(a=1))) == Computing(a=1)


def test_names_and_aliases_that_are_crossed_are_not_mixed_up() -> None:
    class Crossed(pydantic.BaseModel, Request[int]):
        a: int = pydantic.Field(alias="b")
        b: int = pydantic.Field(validation_alias=pydantic.AliasChoices("a", "c"), serialization_alias="x")

    sent = Crossed.model_validate({"a": 1, "b": 2})
    assert Codec(Crossed).decode(encode(sent)) == sent


def test_further_fields_of_a_model_that_takes_them_travel() -> None:
    class Extra(pydantic.BaseModel, Request[int]):
        model_config = pydantic.ConfigDict(extra="allow")

    sent = Extra.model_validate({"more": [1]})
    assert Codec(Extra).decode(encode(sent)) == sent


def test_the_path_of_a_wrong_field_leads_into_what_a_model_holds() -> None:
    codec = Codec(model_of(Holder))
    for body in ({"field": {"struct": {"x": "?"}}, "count": 1}, {"field": []}, {"field": {"struct": []}}, {}, []):
        with pytest.raises(InvalidMessageError) as caught:
            codec.decode(msgspec.msgpack.encode(body))
        assert caught.value.details["path"].startswith("$")
    with pytest.raises(InvalidMessageError) as caught:
        codec.decode(msgspec.msgpack.encode({"field": {"struct": {"x": "?"}}, "count": 1}))
    assert "$.field" in caught.value.details["path"]


def test_a_model_whose_annotation_is_not_defined_is_refused() -> None:
    class Undefined(pydantic.BaseModel, Request[int]):
        field: "Nowhere"  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(InvalidMessageError, match="Nowhere"):
        Codec(Undefined)


def test_a_model_that_is_built_later_travels() -> None:
    class Deferred(pydantic.BaseModel, Request[int]):
        model_config = pydantic.ConfigDict(defer_build=True)
        id: uuid.UUID = pydantic.Field(alias="ID")

    assert Mediator().check(Deferred)[1:] == []
    sent = Deferred(ID=ID)
    assert Codec(Deferred).decode(encode(sent)) == sent


@attrs.define
class Private(Request[int]):
    number: int
    _retries: int = 0


def test_a_private_attribute_of_an_attrs_class_is_refused() -> None:
    @dataclasses.dataclass
    class Outside(Request[int]):
        private: list[Private]

    class Model(pydantic.BaseModel, Request[int]):
        model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
        private: Private | None

    for cls in (Private, Outside, Model):
        with pytest.raises(InvalidMessageError, match=r"Private\._retries is private"):
            Codec(cls)
        assert [problem.kind for problem in Mediator().check(cls)] == ["no handler", "cannot travel"]


@dataclasses.dataclass
class PrivateData(Request[int]):
    _retries: int = 0


class PrivateStruct(msgspec.Struct, Request[int]):
    _retries: int = 0


@pytest.mark.parametrize("cls", [PrivateData, PrivateStruct])
def test_a_private_attribute_of_another_class_travels(cls: Any) -> None:
    assert Codec(cls).decode(encode(cls(3))) == cls(3)


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="pydantic 1 is not for Python 3.14")
def test_a_model_of_pydantic_1_is_refused_and_told_which_version_is_needed() -> None:
    from pydantic import v1

    class Old(v1.BaseModel, Request[None]):
        number: int

    class Holding(msgspec.Struct, Request[None]):
        old: Old

    for cls in (Old, Holding):
        with pytest.raises(InvalidMessageError, match=r"Old is a model of pydantic 1: use pydantic 2\.12"):
            Codec(cls)


def test_a_model_of_a_release_of_pydantic_2_that_is_too_old_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Recent(pydantic.BaseModel, Request[None]):
        number: int

    monkeypatch.setattr(pydantic, "VERSION", "2.11.10")
    with pytest.raises(InvalidMessageError, match=r"Recent is a model of pydantic 2\.11\.10: use pydantic 2\.12"):
        Codec(Recent)
