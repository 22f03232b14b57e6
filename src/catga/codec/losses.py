"""What of a type would not come through, found before a message of it travels."""

from collections.abc import Iterator
from typing import Any

from msgspec import inspect

from catga.codec.model_schema import fields_for_msgspec, model_obstacles
from catga.codec.models import is_model, takes_names, too_old
from catga.codec.variables import open_variables


def obstacles(kind: Any) -> Iterator[str]:
    """What of the type `kind`, and of all that it holds, does not come through: it cannot be encoded or decoded, or
    would arrive as something else.

    Raises:
        NameError, TypeError: a type in it cannot be resolved, or msgspec does not support it.
    """
    yield from open_variables(kind)
    todo: list[Any] = [inspect.type_info(kind)]
    seen: dict[int, Any] = {}
    while todo:
        info: Any = todo.pop()
        known = id(info.cls if isinstance(info, inspect.CustomType) else info)
        if isinstance(info, tuple):
            todo += info
        elif isinstance(info, inspect.Type | inspect.Field) and known not in seen:
            seen[known] = info
            yield from _obstacles(info)
            todo.extend(getattr(info, field) for field in info.__struct_fields__)
            if isinstance(info, inspect.CustomType) and is_model(info.cls):
                todo += inspect.multi_type_info(fields_for_msgspec(info.cls).values())


def _obstacles(info: inspect.Type | inspect.Field) -> Iterator[str]:
    if isinstance(info, inspect.CustomType):
        if text := too_old(info.cls):
            yield text
        elif is_model(info.cls):
            yield from model_obstacles(info.cls, takes_names=takes_names(info.cls))
        else:
            yield f"it holds a {info.cls!r}, which has no encoding"
    elif isinstance(info, inspect.DataclassType) and hasattr(info.cls, "__attrs_attrs__"):
        for field in info.fields:
            if field.name.startswith("_"):
                text = f"{info.cls.__qualname__}.{field.name} is private, and of attrs classes msgspec leaves those out"
                yield text
