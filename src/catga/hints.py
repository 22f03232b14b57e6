"""Annotations are read here, and nowhere else.

From Python 3.14 on an annotation is code that runs when it is read, and a name in it that only type checkers know
raises NameError there. So they are read by `annotationlib`, which puts a `ForwardRef` in its place.
"""

import importlib
import inspect
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any, ForwardRef, get_type_hints

annotationlib: Any = importlib.import_module("annotationlib") if sys.version_info >= (3, 14) else None


def annotations_of(thing: Any) -> Mapping[str, Any]:
    """The annotations of a function, or those that a class has of its own; of anything else, none.

    What they say as text stays text, and what is not defined is a `ForwardRef`.
    """
    if not (isinstance(thing, type) or callable(thing)):
        return {}
    if annotationlib is not None:
        found: Mapping[str, Any] = annotationlib.get_annotations(thing, format=annotationlib.Format.FORWARDREF)
        return found
    return inspect.get_annotations(thing)


def signature_of(function: Callable[..., Any], *, follow_wrapped: bool = True) -> inspect.Signature:
    """The signature of `function`, with annotations as `annotations_of` has them.

    Raises:
        ValueError: it is a function of C that has none.
    """
    options: Any = {} if annotationlib is None else {"annotation_format": annotationlib.Format.FORWARDREF}
    return inspect.signature(function, follow_wrapped=follow_wrapped, **options)


def text_of(annotation: Any) -> str | None:
    """What is to be evaluated: the text of an annotation that is one, or whose name was not defined; else None."""
    if isinstance(annotation, ForwardRef):
        return annotation.__forward_arg__
    return annotation if isinstance(annotation, str) else None


def resolved(annotation: Any, module: str, names: Mapping[str, Any]) -> Any:
    """`annotation`, with what it says as text looked up in `names`, then in the module of that name.

    Raises:
        NameError and others: it cannot be evaluated.
    """
    known = vars(sys.modules.get(module, sys.modules["builtins"]))
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    return get_type_hints(holder, known, dict(names), include_extras=True)["it"]


def field_types(cls: type) -> dict[str, Any]:
    """The types of all fields of a class, by name.

    Raises:
        NameError: one of them is not defined.
    """
    return get_type_hints(cls, include_extras=True)


def field_type(cls: type, name: str) -> Any:
    """The type of a field of a class, whatever its other fields say; None if that is not known."""
    for base in cls.__mro__:
        annotations = annotations_of(base)
        if name in annotations:
            try:
                return resolved(annotations[name], base.__module__, {base.__name__: base})
            except Exception:  # noqa: BLE001 - a name for type checkers alone, or one that is defined later
                return None
    return None


def has_field(cls: type, name: str) -> bool:
    """Whether a class, or one that it derives from, has an annotation or an attribute of that name."""
    return hasattr(cls, name) or any(name in annotations_of(base) for base in cls.__mro__)
