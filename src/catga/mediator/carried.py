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
MAX_HEADER = 8 * MAX_SIZE
"""Characters of the header: JSON may write one of a value's as six."""

carried: ContextVar[dict[str, str] | None] = ContextVar("catga_carried", default=None)
"""The headers that a message gets on its way; nobody changes them."""
_outside: ContextVar[tuple[dict[str, str] | None, ...]] = ContextVar("catga_carried_outside", default=())
"""The same, outside of each block that was entered."""


class context:
    """Send text values along with what is awaited in this block, and with all that the handlers send in turn.

    Handlers read them by `current_message`, on whatever node they run. Values of an outer block go along too, but for
    those that are None here. No other `contextvars.ContextVar` of the sender's reaches a handler on another node.

    Raises:
        TypeError: a value is no text.
        ValueError: it is no Unicode, or names and values have more than 4 KiB together.
    """

    def __init__(self, /, **values: str | None) -> None:
        for name, value in values.items():
            if not isinstance(value, str | None):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(f"a value of the context is text: write {name}={str(value)!r}, not {value!r}")
        self._values = values

    def __enter__(self) -> None:
        given = {**values_of(carried.get()), **self._values}
        merged = {name: value for name, value in given.items() if value is not None}
        size = _size(merged)
        if size > MAX_SIZE:
            raise ValueError(f"the context has {size} bytes, and may have {MAX_SIZE}: send what is large in messages")
        _outside.set((*_outside.get(), carried.get()))  # not here: several tasks may enter one object
        carried.set({CONTEXT: msgspec.json.encode(merged).decode()} if merged else None)

    def __exit__(self, *_: object) -> None:
        *outside, before = _outside.get()
        _outside.set(tuple(outside))
        carried.set(before)


def values_of(headers: Mapping[str, str] | None) -> dict[str, str]:
    """The values that came with these headers; none if nobody could read them."""
    raw = None if headers is None else headers.get(CONTEXT)
    if raw is None or len(raw) > MAX_HEADER:
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
