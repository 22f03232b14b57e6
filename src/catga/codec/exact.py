"""Values that come back from the wire as they were: nobody can tell whether they were copied.

A call that stays on its own node need not make bytes of a value that is frozen, all the way down, and of exactly the
types that its class names. Whether one is tells a function that is generated for its class, as one expression. All
other values go through the codec: a list that the handler might change, an instance of a subclass, a date with a time
zone, whatever does not fit its annotation.
"""

import dataclasses
import datetime
import decimal
import enum
import uuid
from collections.abc import Callable, Iterator
from itertools import count
from keyword import iskeyword
from typing import Any, TypeAlias

from msgspec import inspect

Exactness: TypeAlias = Callable[[Any], bool]

_UTC = datetime.UTC
_PLAIN: dict[type[inspect.Type], str] = {
    inspect.NoneType: "{v} is None",
    inspect.BoolType: "type({v}) is bool",
    inspect.IntType: f"(type({{x}} := {{v}}) is int and {-(2**63)} <= {{x}} < {2**64})",
    inspect.FloatType: "type({v}) is float",
    inspect.StrType: "(type({x} := {v}) is str and ({x}.isascii() or is_text({x})))",
    inspect.BytesType: "type({v}) is bytes",
    inspect.DateTimeType: (
        "(type({x} := {v}) is datetime and ({x}.tzinfo is None or {x}.tzinfo is utc) and not {x}.fold)"
    ),
    inspect.TimeType: "(type({x} := {v}) is time and {x}.tzinfo is None and not {x}.fold)",
    inspect.DateType: "type({v}) is date",
    inspect.TimeDeltaType: "type({v}) is timedelta",
    inspect.UUIDType: "type({v}) is UUID",
    inspect.DecimalType: "type({v}) is Decimal",
}
"""An expression for each kind of value ``v`` that has no parts; ``x`` is a name of its own."""
_NAMES = {
    "datetime": datetime.datetime,
    "time": datetime.time,
    "date": datetime.date,
    "timedelta": datetime.timedelta,
    "UUID": uuid.UUID,
    "Decimal": decimal.Decimal,
    "utc": _UTC,
}
_MAX_DEPTH = 8
"""Of classes in classes; deeper ones, and those that hold themselves, go through the codec."""


_MAX_PARTS = 200
"""Of an expression: beyond it, a round trip costs no more."""


class _InexactError(Exception):
    """No value of the type is exact."""


def exactness(kind: Any) -> Exactness:
    """Return a function that tells whether a value of the type `kind` comes back as it is.

    Raises what `msgspec.inspect.type_info` does.
    """
    names: dict[str, Any] = {**_NAMES, "is_text": _is_text}
    try:
        expression = _expression(inspect.type_info(kind), "value", names, count(), _MAX_DEPTH)
    except _InexactError:
        return _never
    return eval(f"lambda value: {expression}", names)  # type: ignore[no-any-return]  # noqa: S307 - made of parts of ours


def _never(value: Any) -> bool:
    return False


def _is_text(value: str) -> bool:
    """Whether it can be encoded: it has no lone surrogates."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _expression(info: inspect.Type, v: str, names: dict[str, Any], numbers: Iterator[int], depth: int) -> str:
    """Python for: the value of the expression `v` is exact."""
    if next(numbers) > _MAX_PARTS:
        raise _InexactError
    plain = _PLAIN.get(type(info))
    if plain is not None and not _is_constrained(info):
        return plain.format(v=v, x=f"x{next(numbers)}")
    if isinstance(info, inspect.UnionType):
        return f"({' or '.join(_expression(each, v, names, numbers, depth) for each in info.types)})"
    if isinstance(info, inspect.EnumType) and not issubclass(info.cls, enum.Flag):
        return f"type({v}) is {_name(info.cls, names, numbers)}"
    if isinstance(info, inspect.TupleType):
        items = [_expression(each, f"{v}[{i}]", names, numbers, depth) for i, each in enumerate(info.item_types)]
        return f"({' and '.join([f'type({v}) is tuple', f'len({v}) == {len(items)}', *items])})"
    if isinstance(info, inspect.VarTupleType | inspect.FrozenSetType) and not _is_constrained(info):
        item = f"item{next(numbers)}"
        each = _expression(info.item_type, item, names, numbers, depth)
        kind = "tuple" if isinstance(info, inspect.VarTupleType) else "frozenset"
        return f"(type({v}) is {kind} and all({each} for {item} in {v}))"
    if isinstance(info, inspect.DataclassType | inspect.StructType) and depth and _is_frozen(info.cls):
        if any(iskeyword(f.name) for f in info.fields):
            raise _InexactError
        fields = [_expression(f.type, f"{v}.{f.name}", names, numbers, depth - 1) for f in info.fields]
        cls = getattr(info.cls, "__origin__", info.cls)
        return f"({' and '.join([f'type({v}) is {_name(cls, names, numbers)}', *fields])})"
    raise _InexactError


def _name(thing: object, names: dict[str, Any], numbers: Iterator[int]) -> str:
    name = f"class{next(numbers)}"
    names[name] = thing
    return name


def _is_constrained(info: inspect.Type) -> bool:
    """Whether an annotation limits the values: the decoder looks at that."""
    fields = (name for name in info.__struct_fields__ if name != "item_type")
    return any(getattr(info, name) is not None for name in fields)


def _is_frozen(kind: Any) -> bool:
    """Whether nobody can change an instance, and all of it travels."""
    cls: Any = getattr(kind, "__origin__", kind)
    if hasattr(cls, "__post_init__"):  # it would run again on arrival
        return False
    parameters: Any = getattr(cls, "__dataclass_params__", None)
    if parameters is not None:
        return bool(parameters.frozen) and all(field.init for field in dataclasses.fields(cls))
    config = getattr(cls, "__struct_config__", None)
    return config is not None and bool(config.frozen)
