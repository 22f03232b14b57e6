"""The content of a message as bytes that are the same for equal messages, in every process."""

import dataclasses
import hashlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence, Set
from functools import lru_cache
from types import NoneType
from typing import Any

import msgspec

from catga.codec.models import encode_part, fields_of_model, is_model
from catga.errors import refused

_PLAIN = frozenset((str, int, float, bool, NoneType, bytes))
"""Exact types whose bytes depend on nothing but the value."""
_HEADERS = ((16, 1), (65_536, 3), (2**32, 5))
"""Arrays shorter than the one have a header of so many bytes in MessagePack."""
_KNOWN = 1000
"""Classes whose way is remembered."""


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
    return encode_part(value) if kind in _PLAIN else _way(kind)(value)


@lru_cache(maxsize=_KNOWN)
def _way(kind: Any) -> Callable[[Any], bytes]:
    """Return the function that makes bytes of objects of a class."""
    if issubclass(kind, Mapping):
        return _of_mapping
    if issubclass(kind, Set):
        return _of_set
    if issubclass(kind, list | tuple | deque):
        return _of_sequence
    if issubclass(kind, msgspec.Struct):
        return _of_fields(kind.__struct_fields__, kind.__struct_config__.tag)
    if dataclasses.is_dataclass(kind):
        return _of_fields([field.name for field in dataclasses.fields(kind)])
    if hasattr(kind, "__attrs_attrs__"):
        return _of_fields([attribute.name for attribute in kind.__attrs_attrs__])
    return _of_model if is_model(kind) else encode_part


def _of_mapping(value: Mapping[Any, Any]) -> bytes:
    return _joined(b"m", sorted(_canonical(key) + _canonical(item) for key, item in value.items()))


def _of_set(value: Set[Any]) -> bytes:
    return _joined(b"s", sorted(map(_canonical, value)))


def _of_sequence(value: Any) -> bytes:
    if _PLAIN.issuperset(map(type, value)):  # all at once: there may be many
        items = [*value]
        header = next(size for length, size in _HEADERS if len(items) < length)
        return _joined(b"l", [encode_part(items)[header:]], len(items))
    return _joined(b"l", [*map(_canonical, value)])


def _of_fields(names: Sequence[str], tag: object = None) -> Callable[[Any], bytes]:
    def of_object(value: Any) -> bytes:
        fields = {name: getattr(value, name) for name in names}
        known = {name: part for name, part in fields.items() if part is not msgspec.UNSET}  # else it does not travel
        return b"\xc1f" + _of_mapping({"": tag, **known})

    return of_object


def _of_model(value: Any) -> bytes:
    return b"\xc1f" + _canonical(fields_of_model(value))


def _joined(kind: bytes, parts: list[bytes], count: int | None = None) -> bytes:
    """Begins with a byte that no value has in MessagePack."""
    return b"\xc1" + kind + b"%d:" % (len(parts) if count is None else count) + b"".join(parts)
