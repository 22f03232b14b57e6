"""pydantic models in bodies. They are known by their methods, so that pydantic is never imported here.

A model travels as its fields by name, whatever their aliases are, without what it computes. On arrival pydantic makes
a UUID of a text, or a set of a list, by its own lax rules, a strict model's too: the wire has neither. What only
msgspec can make, Structs and attrs objects, is made before.
"""

import functools
import sys
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any

import msgspec

from catga.codec.model_schema import fields_for_msgspec
from catga.codec.model_shapes import is_dict
from catga.hints import signature_of


def is_model(cls: Any) -> bool:
    """Whether `cls` is a pydantic model."""
    return hasattr(cls, "model_validate")


NEEDED = "use pydantic 2.12 or later"


def too_old(cls: Any) -> str:
    """Return why `cls` is a model of a pydantic whose models do not come through, or "" if it is none."""
    if not is_model(cls):
        is_model_of_1 = hasattr(cls, "__fields__") and hasattr(cls, "parse_obj")
        return f"{cls.__qualname__} is a model of pydantic 1: {NEEDED}" if is_model_of_1 else ""
    version: str = getattr(sys.modules.get("pydantic"), "VERSION", "")
    if version.startswith(tuple(f"2.{minor}." for minor in range(12))):
        return f"{cls.__qualname__} is a model of pydantic {version}: {NEEDED}"
    return ""


def encode_model(value: Any) -> msgspec.Raw:
    """The hook of an encoder for what msgspec does not know.

    Raises:
        NotImplementedError: `value` is no model.
    """
    return msgspec.Raw(encode_part(fields_of_model(value)))


def fields_of_model(value: Any) -> Any:
    """Return what a model travels as. Raises NotImplementedError: `value` is no model."""
    serializer = getattr(value, "__pydantic_serializer__", None)
    if serializer is None:
        raise NotImplementedError(f"objects of {type(value)!r} cannot be encoded")
    return serializer.to_python(value, by_alias=False, round_trip=True)


def _encode_part(value: Any) -> Any:
    """What is within a model and msgspec does not know, in the form that pydantic takes back."""
    if is_model(type(value)):
        return fields_of_model(value)
    if hasattr(value, "get_secret_value"):
        return value.get_secret_value()
    if isinstance(value, deque):
        return [*value]
    if isinstance(value, (PurePath, *_loaded("zoneinfo", "ZoneInfo"), *_loaded("ipaddress", *_ADDRESSES))):
        return str(value)
    core: Any = sys.modules.get("pydantic_core")
    if core is None:  # it is within no model
        raise NotImplementedError(f"objects of {type(value)!r} cannot be encoded")
    return core.to_jsonable_python(value)


_ADDRESSES = ("IPv4Address", "IPv4Interface", "IPv4Network", "IPv6Address", "IPv6Interface", "IPv6Network")
"""pydantic before 2.12.3 makes texts of these in its own fields alone."""


def _loaded(module: str, *names: str) -> tuple[type, ...]:
    """The classes of these names, if their module is there: else nobody has an object of them."""
    return tuple(getattr(sys.modules[module], name) for name in names) if module in sys.modules else ()


encode_part = msgspec.msgpack.Encoder(enc_hook=_encode_part).encode
"""Encodes what is within a model."""


class ModelDecoders(dict[type, Callable[[Any], Any]]):
    """Model class → what makes one of a decoded value, worked out once. `decode` is a decoder's hook."""

    def decode(self, cls: type, value: Any) -> Any:
        """A `cls` of `value`.

        Raises:
            ValueError: it is none, in msgspec's words.
            NotImplementedError: `cls` is no model.
        """
        try:
            return self[cls](value)
        except ValueError as error:
            raise ValueError(_pydantic_text(error)) from error

    def __missing__(self, cls: type) -> Callable[[Any], Any]:
        if not is_model(cls):
            raise NotImplementedError(f"objects of {cls!r} cannot be decoded")
        validate, types = _validator(cls), fields_for_msgspec(cls)
        made = functools.partial(self._validated, validate, types) if types else validate
        self[cls] = made
        return made

    def _validated(self, validate: Callable[[Any], Any], types: Mapping[str, Any], value: Any) -> Any:
        if "" in types:
            return validate(self._made(value, types[""], ""))
        if is_dict(value):
            found = {name: self._made(value[name], types[name], f".{name}") for name in types if name in value}
            value = {**value, **found}
        return validate(value)

    def _made(self, value: Any, kind: Any, path: str) -> Any:
        try:
            return msgspec.convert(value, kind, dec_hook=self.decode)
        except msgspec.ValidationError as error:
            text = str(error)
            raise ValueError(
                text.replace("at `$", f"at `${path}") if "at `" in text else f"{text} - at `${path}`"
            ) from error


def takes_names(model: Any) -> bool:
    """Whether this pydantic, 2.11 or later, can make models by the names of their fields in place of their aliases."""
    return "by_name" in signature_of(model.model_validate).parameters


def _validator(model: Any) -> Callable[[Any], Any]:
    names = {"by_alias": False, "by_name": True} if takes_names(model) else {}
    return functools.partial(model.model_validate, strict=False, **names)


def _pydantic_text(error: ValueError) -> str:
    """A pydantic error in msgspec's words: the text, then the path of the field."""
    details: Callable[[], list[dict[str, Any]]] | None = getattr(error, "errors", None)
    if details is None:
        return str(error)
    first = details()[0]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
    return f"{first['msg']} - at `${path}`"
