"""Checks the options of a backend when they are given, by the annotations of the client library that takes them."""

import os
import types
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from inspect import Parameter
from typing import Any, Literal, Union, get_args, get_origin

from catga.hints import resolved, signature_of
from catga.seconds import is_number

_MEANT = {"timeout": "request_timeout"}
"""Options that are called otherwise, and do not look like it."""


def options_of(*functions: Callable[..., Any]) -> dict[str, Any]:
    """Return what `functions` take by name, each with its type; `Any` if the annotation cannot be read."""
    found: dict[str, Any] = {}
    for function in functions:
        for name, parameter in signature_of(function).parameters.items():
            if parameter.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY) and name != "self":
                found.setdefault(name, _type_of(parameter.annotation, function))
    return found


def _type_of(annotation: Any, function: Callable[..., Any]) -> Any:
    if annotation is Parameter.empty:
        return Any
    try:
        return resolved(annotation, function.__module__, {})
    except Exception:  # noqa: BLE001 - a name for type checkers alone, or whatever else a library writes
        return Any


def check_options(given: Mapping[str, Any], known: Mapping[str, Any], scheme: str) -> None:
    """Raise TypeError for an option that is not among the `known` ones of a backend, or has another type than they say.

    The text names no value: it may be a secret.
    """
    for name, value in given.items():
        if name not in known:
            raise TypeError(f"{scheme}:// has no option {name!r}{_advice(name, known)}")
        if not fits(value, known[name]):
            raise TypeError(f"the option {name!r} must be {words(known[name])}, got {type(value).__name__}")


def _advice(name: str, known: Mapping[str, Any]) -> str:
    near = [_MEANT[name]] if name in _MEANT else get_close_matches(name, known, n=1)
    if near:
        return f": did you mean {near[0]!r}?"
    return f": beside those of add_cluster it has {', '.join(sorted(known)) or 'none'}"


def fits(value: Any, kind: Any) -> bool:
    """Whether `value` can be an argument of the type `kind`. In doubt it can: libraries take more than they write, such
    as floats for whole numbers."""
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return any(fits(value, each) for each in get_args(kind))
    if origin is Literal:
        return value in get_args(kind)
    if kind is Any or kind is None:
        return kind is Any or value is None
    return _is_of(value, origin or kind)


def _is_of(value: Any, kind: Any) -> bool:
    if kind is Callable:
        return callable(value)
    if kind in (int, float):
        return is_number(value)
    if kind is bool:
        return isinstance(value, int)
    if kind is str:
        return isinstance(value, str | os.PathLike)
    if not isinstance(kind, type) or getattr(kind, "_is_protocol", False):
        return True
    return isinstance(value, kind)


def words(kind: Any) -> str:
    """Return what `kind` is called in an error."""
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(words, get_args(kind))))
    if origin is Literal:
        return " or ".join(map(repr, get_args(kind)))
    plain = origin or kind
    if plain is Callable:
        return "a function"
    if plain in (None, type(None)):
        return "None"
    return _WORDS.get(plain, getattr(plain, "__name__", str(plain)))


_WORDS: dict[Any, str] = {str: "text", int: "a number", float: "a number", bool: "True or False"}
