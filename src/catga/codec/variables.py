"""What would arrive as plain data: type variables that nobody has said a type for, and what stands beside `Any`."""

import types
from collections import abc
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin

from msgspec import UnsetType

from catga.codec.models import is_model
from catga.hints import field_types

_MARKS = ("__dataclass_fields__", "__struct_fields__", "__attrs_attrs__", "_fields", "__total__")
"""What classes have whose fields msgspec knows."""
_PLAIN = (Any, None, type(None), bool, int, float, str, bytes)
_LISTS = (list, abc.Collection, abc.Sequence, abc.MutableSequence)
_DICTS = (dict, abc.Mapping, abc.MutableMapping)
"""What msgspec makes lists and dicts for."""
_MARKED = ("Final", "NotRequired", "ReadOnly", "Required")
"""What a class says of a field besides its type."""
_Bound: TypeAlias = "Mapping[Any, Any]"


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
        key = _key(part, bound)
        if key in seen:
            continue
        seen.add(key)
        yield from (
            f"{_shown(other)} beside Any would arrive as plain data: leave out Any" for other in _swallowed(part, bound)
        )
        todo += ((argument, bound, where) for argument in get_args(part) if not isinstance(argument, str))
        todo += _fields(part, bound)


def members(part: Any) -> list[Any]:
    """The members of a union, those of unions in it as well, each as what its name stands for; else `part` alone."""
    return [member for member, _, _ in _members(part, {})]


def _members(part: Any, bound: _Bound) -> Iterator[tuple[Any, _Bound, Any]]:
    """Each with the types of its variables, and as it is written."""
    written = bound.get(part, part) if isinstance(part, TypeVar) else part
    part, bound = _meant(part, bound)
    if not _is_union(part):
        yield part, bound, written
        return
    for each in get_args(part):
        yield from _members(each, bound)


def _meant(part: Any, bound: _Bound) -> tuple[Any, _Bound]:
    """What `part` stands for if it is a name (an alias, a NewType, a type variable), or has notes beside it."""
    names: list[Any] = []
    while all(part is not name for name in names):
        names.append(part)
        origin = get_origin(part)
        if isinstance(part, TypeVar):
            part = bound.get(part, part if part.__bound__ is None else part.__bound__)
        elif hasattr(part, "__value__"):  # a `type` statement's, whose variables are its own
            part, bound = part.__value__, _arguments(part, origin or part, bound)
        elif origin is Annotated or getattr(origin, "_name", None) in _MARKED:
            part = get_args(part)[0]
        else:
            part = getattr(part, "__supertype__", part)
    return part, bound


def _swallowed(part: Any, bound: _Bound) -> Iterator[Any]:
    """The members of a union that are more than plain data, if it takes anything: it is decoded as that then."""
    if _is_union(part):
        found = list(_members(part, bound))
        if any(member is Any for member, _, _ in found):
            yield from (written for member, its, written in found if not _is_plain(member, its, set()))


def _is_union(part: Any) -> bool:
    return get_origin(part) in (Union, types.UnionType)


def _is_plain(part: Any, bound: _Bound, seen: set[Any], *, is_key: bool = False) -> bool:
    """Whether what msgpack has comes back as it was."""
    part, bound = _meant(part, bound)
    if isinstance(part, TypeVar):  # nobody has said a type for it, which is told as that
        return True
    key = _key(part, bound)
    if key in seen:
        return True
    seen.add(key)
    origin: Any = get_origin(part) or part
    if origin is Literal:
        return all(type(value) in _PLAIN for value in get_args(part))
    if hasattr(origin, "__total__"):
        return all(_is_plain(hint, given, seen) for hint, given, _ in _fields(part, bound))
    arguments = [each for each in get_args(part) if each is not ...]
    if origin in _DICTS and arguments:
        return _is_plain(arguments[0], bound, seen, is_key=True) and _is_plain(arguments[1], bound, seen)
    if origin in _LISTS or _is_union(part) or (is_key and origin is tuple):  # a list is no key: it comes as a tuple
        return all(_is_plain(each, bound, seen, is_key=is_key) for each in arguments)
    return origin in (*_PLAIN, *_DICTS) or (origin is UnsetType and not is_key)


def _fields(part: Any, bound: _Bound) -> Iterator[tuple[Any, dict[Any, Any], str]]:
    """The types of the fields of a class, or of a generic class with its arguments."""
    cls = get_origin(part) or part
    if hasattr(part, "__value__"):  # a `type` statement's, whose variables are its own
        yield part.__value__, _arguments(part, cls, bound), _shown(cls)
    elif hasattr(part, "__supertype__"):
        yield part.__supertype__, {**bound}, _shown(part)
    if not isinstance(cls, type) or is_model(cls) or not _has_fields(cls):
        return
    given = _given(cls, _arguments(part, cls, bound))
    for hint in field_types(cls).values():
        yield hint, given, _shown(cls)


def _given(cls: type, bound: _Bound) -> dict[Any, Any]:
    """The variables of `cls` and of its bases that have a type."""
    given = dict(bound)
    for base in cls.__dict__.get("__orig_bases__", cls.__bases__):
        origin = get_origin(base) or base
        if isinstance(origin, type):
            given |= _given(origin, _arguments(base, origin, bound))
    return given


def _arguments(part: Any, cls: Any, bound: _Bound) -> dict[Any, Any]:
    """The variables of the class `cls`, with the types that `part`, it with arguments, has for them."""
    pairs = zip(getattr(cls, "__parameters__", ()), get_args(part), strict=False)
    said = {parameter: bound.get(argument, argument) for parameter, argument in pairs}
    return {parameter: argument for parameter, argument in said.items() if not _is_open(argument)}


def _is_open(argument: Any) -> bool:
    return isinstance(argument, TypeVar) and argument.__bound__ is None


def _has_fields(cls: type) -> bool:
    return any(hasattr(cls, mark) for mark in _MARKS)


def _key(part: Any, bound: _Bound) -> object:
    """What a type is known by, with the types of its variables."""
    try:
        hash(part)
    except TypeError:
        return id(part)
    return part, tuple(bound.items())


def _shown(kind: Any) -> str:
    return kind.__qualname__ if isinstance(kind, type) else str(kind)
