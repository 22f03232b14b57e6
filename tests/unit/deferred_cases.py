"""Handlers and messages whose annotations name what only type checkers know: for Python 3.14 and later."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from catga.messages import Event, Request, message

if TYPE_CHECKING:
    from nowhere import Nowhere

T = TypeVar("T")


@dataclass(frozen=True)
class Ask(Request[int]):
    number: int = 1


class Hidden(Event):
    """Two fields, of which one is of a type that nobody knows."""

    sku: str
    price: Nowhere


@message(key="sku")
class Keyed(Hidden):
    """Has a key in a class with such a field."""


class Page(Request[list[T]], Generic[T]):
    """Answered with a list."""


class Later(Request["list[Row]"]):
    """Answered with what is defined below."""


async def hidden_option(ask: Ask, option: Nowhere | None = None) -> int:
    return ask.number


async def hidden_answer(ask: Ask) -> Nowhere:
    return ask.number


async def hidden_message(ask: Nowhere) -> int:
    return 1


async def early(ask: Defined) -> int:  # noqa: F821 - defined below, which is early enough
    return 1


class Row:
    """A row."""


@dataclass(frozen=True)
class Defined(Request[int]):
    """Stands below the handler that takes it."""
