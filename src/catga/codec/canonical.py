"""The content of a message as bytes that are the same for equal messages, in every process."""

import dataclasses
import hashlib
from collections import deque
from collections.abc import Mapping, Set
from typing import Any

import msgspec

from catga.codec.models import encode_part, fields_of_model, is_model
from catga.errors import refused


def digest(message: object) -> bytes:
    """Return the SHA-256 of the content of `message`: two are the same exactly if the contents are.

    Neither the order of a set nor that of the keys of a dict counts, which `encode` leaves as they are.

    Raises:
        InvalidMessageError: it holds something that cannot be encoded.
    """
    try:
        return hashlib.sha256(_canonical(message)).digest()
    except Exception as error:
        raise refused(f"{type(message).__qualname__} cannot be encoded: {error}") from error


def _canonical(value: Any) -> bytes:
    kind: Any = value.__class__
    if issubclass(kind, Mapping):
        items = value.items()
        return _joined(b"m", sorted(_canonical(key) + _canonical(item) for key, item in items))
    if issubclass(kind, Set):
        return _joined(b"s", sorted(map(_canonical, value)))
    if issubclass(kind, list | tuple | deque):
        return _joined(b"l", [_canonical(item) for item in value])
    fields = _fields(value)
    return b"v" + encode_part(value) if fields is None else b"f" + _canonical(fields)


def _joined(kind: bytes, parts: list[bytes]) -> bytes:
    return kind + b"%d:" % len(parts) + b"".join(parts)


def _fields(value: Any) -> dict[str, Any] | None:
    """Return the fields of an object by name, or None if it has none."""
    cls: Any = value.__class__
    if issubclass(cls, msgspec.Struct):
        named = {name: getattr(value, name) for name in value.__struct_fields__}
        return {"": value.__struct_config__.tag, **named}
    if dataclasses.is_dataclass(cls):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(cls)}
    if hasattr(cls, "__attrs_attrs__"):
        return {attribute.name: getattr(value, attribute.name) for attribute in cls.__attrs_attrs__}
    return fields_of_model(value) if is_model(cls) else None
