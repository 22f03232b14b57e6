"""Keys, of messages for routing and of behaviors: their bytes, and what can be known of them before the first call."""

import types
import typing
from enum import Enum
from typing import Any, cast
from uuid import UUID

from catga.errors import refused
from catga.hints import field_type
from catga.messages import options_of

STABLE = "str, bytes, int, UUID, or a tuple of them"


def key_bytes(key: object) -> bytes:
    """A key's bytes, the same everywhere for equal keys.

    Raises:
        InvalidMessageError: `key` is neither str, bytes, int, bool, an enum of one of these, a UUID, nor a
            tuple of them.
    """
    if isinstance(key, str):
        return b"s" + key.encode("utf-8", "surrogatepass")
    if isinstance(key, int):
        return b"i%d" % key
    if isinstance(key, bytes):
        return b"b" + key
    if isinstance(key, UUID):
        return b"u" + key.bytes
    if isinstance(key, tuple):
        parts = [key_bytes(part) for part in cast("tuple[object, ...]", key)]
        return b"t" + b"".join(b"%d:%b" % (len(part), part) for part in parts)
    if isinstance(key, Enum):
        return key_bytes(key.value)
    raise refused(f"a key of type {type(key).__qualname__} has no stable bytes: use {STABLE}")


def check_key(message_type: type) -> None:
    """Look at a message class before the first call.

    Raises:
        InvalidMessageError: it declares no key, or its key is a field of a type without stable bytes.
    """
    key = options_of(message_type).key
    if key is None:
        raise refused(f"{message_type.__qualname__} has no key: declare one with @message(key=...) to route it by key")
    if isinstance(key, str) and _never_stable(field_type(message_type, key)):
        raise refused(f"the key {key!r} of {message_type.__qualname__} has no stable bytes: its type must be {STABLE}")


def _never_stable(annotation: Any) -> bool:
    """Whether no value of this type can be a key. What cannot be told is left to the call."""
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return all(_never_stable(part) for part in typing.get_args(annotation))
    cls = origin or annotation
    return isinstance(cls, type) and cls is not object and not issubclass(cls, str | bytes | int | UUID | tuple | Enum)
