"""What would arrive as plain data: type variables that nobody has said a type for, and what stands beside `Any`."""

import types
from collections.abc import Iterator
from typing import Any, TypeVar, Union, get_args, get_origin

from catga.codec.models import is_model
from catga.hints import field_types

_MARKS = ("__dataclass_fields__", "__struct_fields__", "__attrs_attrs__", "_fields", "__total__")
"""What classes have whose fields msgspec knows."""
_PLAIN = (Any, type(None), bool, int, float, str, bytes, list, dict)


def open_variables(kind: Any) -> Iterator[str]:
    """Tell what of `kind`, and of all that it holds, would arrive as plain data."""
    seen: set[Any] = set()
    todo: list[tuple[Any, dict[Any, Any], str]] = [(kind, {}, _shown(kind))]
    while todo:
        part, bound, where = todo.pop()
        if isinstance(part, TypeVar):
            if part.__bound__ is not None and part not in bound:
                todo.append((part.__bound__, bound, where))
            elif part not in bound:
                yield f"{where} leaves the type variable {part} open: derive a class from {where}[...] that says it"
            continue
        key = (part, tuple(bound.items())) if _is_hashable(part) else id(part)
        if key in seen:
            continue
        seen.add(key)
        yield from (
            f"{_shown(other)} beside Any would arrive as plain data: leave out Any" for other in _swallowed(part)
        )
        todo += ((argument, bound, where) for argument in get_args(part) if not isinstance(argument, str))
        todo += _fields(part, bound)


def _swallowed(part: Any) -> Iterator[Any]:
    """The members of a union that are more than plain data, if it takes anything: it is decoded as that then."""
    if get_origin(part) in (Union, types.UnionType) and Any in get_args(part):
        yield from (each for each in get_args(part) if (get_origin(each) or each) not in _PLAIN)


def _fields(part: Any, bound: dict[Any, Any]) -> Iterator[tuple[Any, dict[Any, Any], str]]:
    """The types of the fields of a class, or of a generic class with its arguments."""
    cls = get_origin(part) or part
    if hasattr(part, "__value__"):  # a `type` statement's, whose variables are its own
        yield part.__value__, _arguments(part, cls, bound), _shown(cls)
    if not isinstance(cls, type) or is_model(cls) or not _has_fields(cls):
        return
    given = _given(cls, _arguments(part, cls, bound))
    for hint in field_types(cls).values():
        yield hint, given, _shown(cls)


def _given(cls: type, bound: dict[Any, Any]) -> dict[Any, Any]:
    """The variables of `cls` and of its bases that have a type."""
    given = dict(bound)
    for base in cls.__dict__.get("__orig_bases__", cls.__bases__):
        origin = get_origin(base) or base
        if isinstance(origin, type):
            given |= _given(origin, _arguments(base, origin, bound))
    return given


def _arguments(part: Any, cls: Any, bound: dict[Any, Any]) -> dict[Any, Any]:
    """The variables of the class `cls`, with the types that `part`, it with arguments, has for them."""
    pairs = zip(getattr(cls, "__parameters__", ()), get_args(part), strict=False)
    said = {parameter: bound.get(argument, argument) for parameter, argument in pairs}
    return {parameter: argument for parameter, argument in said.items() if not _is_open(argument)}


def _is_open(argument: Any) -> bool:
    return isinstance(argument, TypeVar) and argument.__bound__ is None


def _has_fields(cls: type) -> bool:
    return any(hasattr(cls, mark) for mark in _MARKS)


def _is_hashable(part: Any) -> bool:
    try:
        hash(part)
    except TypeError:
        return False
    return True


def _shown(kind: Any) -> str:
    return kind.__qualname__ if isinstance(kind, type) else str(kind)
