"""Values as JSON, as FastAPI writes them. pydantic is never imported here: only who has its objects has loaded it.

msgspec writes nearly everything. Pydantic models and types dump themselves, by alias and with secrets masked. A second
way, for what JSON does not have (keys that are no text, integers of any size, halves of characters), is taken when the
first one fails.
"""

import json
import math
import sys
from collections import deque
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from pathlib import PurePath
from typing import Any, cast

import msgspec

_TEXTS = (PurePath, IPv4Address, IPv6Address, IPv4Network, IPv6Network, IPv4Interface, IPv6Interface)


def as_json(value: Any) -> bytes:
    """Return `value` as JSON.

    Raises:
        TypeError, NotImplementedError, ValueError: it holds an object that neither msgspec nor pydantic can write.
    """
    try:
        return msgspec.json.encode(value, enc_hook=_dump)
    except (TypeError, ValueError, NotImplementedError, OverflowError):
        return json.dumps(_plain(msgspec.to_builtins(value, enc_hook=_dump)), separators=(",", ":")).encode()


def _dump(value: Any) -> Any:
    """What stands in JSON for a pydantic model, and for an object of a type that msgspec does not know."""
    dump = getattr(value, "model_dump", None)
    if dump is not None:
        return _dumped(dump)
    if isinstance(value, deque):
        return [*value]  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, _TEXTS):
        return str(value)
    if (secret := getattr(value, "get_secret_value", None)) is not None:
        return "**********" if secret() else ""
    core: Any = sys.modules.get("pydantic_core")
    written: Any = value if core is None else core.to_jsonable_python(value)
    if type(written) is type(value):  # a key that is no text
        raise NotImplementedError(f"objects of {type(value)!r} cannot be encoded")
    return written


def _dumped(dump: Any) -> Any:
    try:
        return dump(mode="json", by_alias=True)
    except (TypeError, ValueError):  # bytes that are no text, or keys that pydantic has no text for
        return dump(by_alias=True)


def _plain(tree: Any) -> Any:
    """Return `tree`, of dictionaries, lists and values that JSON has, with texts as keys and without NaN."""
    if isinstance(tree, dict):
        return {_key(key): _plain(value) for key, value in cast("dict[object, Any]", tree).items()}
    if isinstance(tree, list | tuple):
        return [_plain(item) for item in cast("list[Any]", tree)]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def _key(key: object) -> str:
    """Return the text that pydantic writes for a key."""
    if isinstance(key, tuple):
        return ",".join(map(_key, cast("tuple[object, ...]", key)))
    return str(key).lower() if isinstance(key, bool) else str(key)
