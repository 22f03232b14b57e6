"""`context`: text values that travel beside a message, and beside all that its handlers send.

They stand in a variable as the header that takes them along: so nothing is to be done for a call that has none, and
little for one that has.
"""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

import msgspec

CONTEXT = "catga-context"
"""The name of the header: its value is a JSON object."""
MAX_SIZE = 4096
"""Bytes of all names and values together, in UTF-8."""

carried: ContextVar[dict[str, str] | None] = ContextVar("catga_carried", default=None)
"""The headers that a message gets on its way; nobody changes them."""


@contextmanager
def context(**values: str) -> Generator[None]:
    """Send text values along with what is sent in this block, and with all that the handlers send in turn.

    Handlers read them by `current_message`, on whatever node they run. Values of an outer block go along too. No other
    `contextvars.ContextVar` of the sender's reaches a handler on another node.

    Raises:
        TypeError: a value is no text.
        ValueError: it is no Unicode, or names and values have more than 4 KiB together.
    """
    for name, value in values.items():
        if not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"a value of the context is text: write {name}={str(value)!r}, not {value!r}")
    merged = {**values_of(carried.get()), **values}
    size = _size(merged)
    if size > MAX_SIZE:
        raise ValueError(f"the context has {size} bytes, and may have {MAX_SIZE}: send what is large in messages")
    token = carried.set({CONTEXT: msgspec.json.encode(merged).decode()} if merged else None)
    try:
        yield
    finally:
        carried.reset(token)


def values_of(headers: Mapping[str, str] | None) -> dict[str, str]:
    """The values that came with these headers; none if nobody could read them."""
    raw = None if headers is None else headers.get(CONTEXT)
    if raw is None:
        return {}
    try:
        values = msgspec.json.decode(raw, type=dict[str, str])
    except (msgspec.DecodeError, UnicodeError):
        return {}
    return values if _size(values) <= MAX_SIZE else {}


@contextmanager
def carrying(headers: Mapping[str, str]) -> Generator[None]:
    """What is handled in this block came with these headers: their context goes along with all that is sent in it."""
    values = values_of(headers)
    token = carried.set({CONTEXT: headers[CONTEXT]} if values else None)
    try:
        yield
    finally:
        carried.reset(token)


def _size(values: Mapping[str, str]) -> int:
    return sum(len(name.encode()) + len(value.encode()) for name, value in values.items())
