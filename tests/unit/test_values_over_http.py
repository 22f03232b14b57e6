"""What a handler may return is JSON over HTTP, the same that FastAPI writes: kinds of values in kinds of classes."""

import datetime
import decimal
import enum
import ipaddress
import json
import math
import re
import subprocess
import sys
import uuid
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, make_dataclass
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import attrs
import httpx
import msgspec
import pydantic
import pydantic.dataclasses
import pytest
from fastapi import FastAPI
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticSerializationError

from catga import Success
from catga.integrations.fastapi import respond

UTC, PARIS = datetime.UTC, datetime.timezone(datetime.timedelta(hours=1))
MOMENT = datetime.datetime(2024, 1, 2, 3, 4, 5, 120000, tzinfo=UTC)


class Color(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Share(enum.Enum):
    HALF = 0.5


class Modes(enum.Flag):
    READ = 1
    WRITE = 2


VALUES: dict[str, tuple[Any, Any]] = {
    "int": (int, 1),
    "large int": (int, 2**63),
    "float": (float, 1.0),
    "small float": (float, 1e-7),
    "nan": (float, math.nan),
    "infinity": (float, -math.inf),
    "bool": (bool, True),
    "text": (str, "é\u2028</"),
    "none": (int | None, None),
    "decimal": (decimal.Decimal, decimal.Decimal("1.50")),
    "uuid": (uuid.UUID, uuid.UUID(int=3)),
    "datetime": (datetime.datetime, MOMENT),
    "datetime elsewhere": (datetime.datetime, MOMENT.astimezone(PARIS)),
    "naive datetime": (datetime.datetime, MOMENT.replace(tzinfo=None)),
    "date": (datetime.date, MOMENT.date()),
    "time": (datetime.time, MOMENT.time()),
    "timedelta": (datetime.timedelta, datetime.timedelta(days=1, microseconds=5)),
    "enum": (Color, Color.RED),
    "enum of ints": (Level, Level.LOW),
    "enum of floats": (Share, Share.HALF),
    "flag": (Modes, Modes.READ | Modes.WRITE),
    "set": (set[int], {1}),
    "frozenset": (frozenset[str], frozenset("a")),
    "tuple": (tuple[int, str], (1, "a")),
    "list": (list[set[Color]], [{Color.RED}]),
    "dict": (dict[str, Any], {"a": [1, {"b": None}]}),
    "keys: int": (dict[int, int], {1: 1}),
    "keys: float": (dict[float, int], {1.5: 1}),
    "keys: bool": (dict[bool, float], {True: math.nan}),
    "keys: none": (dict[None, int], {None: 2**63}),
    "keys: tuple": (dict[tuple[int, str], decimal.Decimal], {(1, "a"): decimal.Decimal("1.50")}),
    "keys: date": (dict[datetime.date, int], {MOMENT.date(): 1}),
    "keys: timedelta": (dict[datetime.timedelta, int], {datetime.timedelta(1): 1}),
    "keys: uuid": (dict[uuid.UUID, int], {uuid.UUID(int=3): 1}),
    "keys: enum": (dict[Color, int], {Color.RED: 1}),
    "address": (ipaddress.IPv4Address, ipaddress.ip_address("1.2.3.4")),
    "interface": (ipaddress.IPv6Interface, ipaddress.ip_interface("::1/8")),
    "network": (ipaddress.IPv4Network, ipaddress.ip_network("10.0.0.0/8")),
    "path": (PurePosixPath, PurePosixPath("/a/b")),
    "deque": (deque[int], deque([1])),
    "pattern": (re.Pattern[str], re.compile("a+")),
    "url": (pydantic.HttpUrl, pydantic.TypeAdapter(pydantic.HttpUrl).validate_python("http://a.b/c")),
    "secret": (pydantic.SecretStr, pydantic.SecretStr("hunter2")),
    "secret bytes": (pydantic.SecretBytes, pydantic.SecretBytes(b"hunter2")),
}


def in_classes(kind: Any, value: Any) -> Iterator[tuple[str, Any, Any]]:
    """The name of a class or collection, its type for FastAPI, and one that has the value."""
    yield "alone", kind, value
    yield "in a list", list[kind], [value]
    yield "in a dict", dict[str, kind], {"k": value}
    yield "in a tuple", NamedTuple("Named", [("some_value", kind)]), (value,)
    plain = make_dataclass("Plain", [("some_value", kind)])
    yield "dataclass", plain, plain(value)
    renamed = make_dataclass("Renamed", [("someValue", kind)])
    yield "struct", renamed, msgspec.defstruct("Struct", [("some_value", kind)], rename="camel")(value)
    yield "attrs", plain, attrs.make_class("Attrs", {"some_value": attrs.field(type=kind)})(value)
    of_pydantic = pydantic.dataclasses.dataclass(make_dataclass("OfPydantic", [("some_value", kind)]))
    yield "pydantic dataclass", of_pydantic, of_pydantic(value)
    config = pydantic.ConfigDict(alias_generator=to_camel, populate_by_name=True)
    model = pydantic.create_model("Model", __config__=config, some_value=(kind, ...))
    made = model(some_value=value)
    yield "model", model, made
    yield "models in lists in dicts", dict[str, list[model]], {"k": [made]}  # type: ignore[valid-type]
    yield "generic model", pydantic.RootModel[kind], pydantic.RootModel[kind](value)
    outer = make_dataclass("Outer", [("inner_one", model)])
    yield "model in a dataclass", outer, outer(made)
    renamed_outer = make_dataclass("RenamedOuter", [("innerOne", model)])
    yield "model in a struct", renamed_outer, msgspec.defstruct("In", [("inner_one", model)], rename="camel")(made)
    part = make_dataclass("Part", [("some_value", kind)])  # it has the model's aliases with an older pydantic
    in_model = pydantic.create_model("InModel", __config__=config, the_model=(model, ...), a_class=(part, ...))
    yield "model in a model", in_model, in_model(the_model=made, a_class=part(value))


def alike(kind: Any, value: Any) -> Any:
    """What FastAPI is given: a dataclass in place of a struct and an attrs object, of which it knows neither."""
    if attrs.has(type(value)):
        return kind(value.some_value)
    return kind(*msgspec.structs.astuple(value)) if isinstance(value, msgspec.Struct) else value


@pytest.mark.parametrize("name", VALUES)
async def test_a_value_is_what_fastapi_writes(name: str) -> None:
    places, kinds, values = zip(*in_classes(*VALUES[name]), strict=True)

    async def answer() -> Any:
        return tuple(map(alike, kinds, values))

    answer.__annotations__["return"] = tuple[kinds]
    app = FastAPI()
    app.get("/")(answer)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as http:
        try:
            theirs = (await http.get("/")).json()
        except PydanticSerializationError as error:
            pytest.skip(f"FastAPI cannot write it with this release of pydantic: {error}")
    ours = [bytes(respond(Success(value)).body) for value in values]
    assert {place: json.loads(body or b"null") for place, body in zip(places, ours, strict=True)} == dict(
        zip(places, theirs, strict=True)
    )
    assert b"hunter2" not in b"".join(ours)


class Bytes(pydantic.BaseModel):
    some_bytes: bytes = pydantic.Field(serialization_alias="someBytes")
    by_set: dict[Any, pydantic.SecretStr] = {}


@dataclass
class PlainBytes:
    some_bytes: bytes


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (b"ab", "YWI="),
        (PlainBytes(b"ab"), {"some_bytes": "YWI="}),
        (Bytes(some_bytes=b"ab"), {"someBytes": "ab", "by_set": {}}),
        (Bytes(some_bytes=b"\xff"), {"someBytes": "/w==", "by_set": {}}),
        (
            [Bytes(some_bytes=b"\xff", by_set={frozenset([1]): pydantic.SecretStr("hunter2")})],
            [{"someBytes": "/w==", "by_set": {"1": "**********"}}],
        ),
        ({frozenset([1]): {(True, None, (1.5, b"ab")): 2**70}}, {"1": {"true,None,1.5,YWI=": 2**70}}),
    ],
)
def test_what_fastapi_cannot_write_or_not_so_is_json_too(value: Any, written: Any) -> None:
    assert json.loads(bytes(respond(Success(value)).body)) == written


@pytest.mark.parametrize("value", [object(), [object()], {"a": {(1, 2): object()}}, PlainBytes(object())])  # type: ignore[arg-type]
def test_what_nobody_can_write_is_an_error_of_the_program(value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="object"):
        respond(Success(value))


def test_starlette_alone_is_enough() -> None:
    program = """
import sys
for name in ("fastapi", "pydantic", "pydantic_core"):
    sys.modules[name] = None
from ipaddress import ip_address
from catga import Success
from catga.integrations.fastapi import lifespan, mediator, respond
print(respond(Success({(1, True): [ip_address("1.2.3.4")]})).body)
try:
    respond(Success(object()))
except NotImplementedError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines() == [
        """b'{"1,true":["1.2.3.4"]}'""",
        "objects of <class 'object'> cannot be encoded",
    ]
    assert done.stderr == ""
