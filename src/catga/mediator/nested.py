"""Handlers that wait for calls of their own, and the places that they hold meanwhile.

A handler keeps its place while it waits for what it sends. Were all places of some nodes held by handlers that wait for
each other's nodes, nothing would go on before the deadline. So a handler that took one of the last places of its node
lends it while it waits: to calls that are *nested*, which other handlers wait for. Such calls say how deep they are
nested, and the deepest go first, as nobody else can end before them.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from threading import get_ident
from typing import Protocol

HEADER = "catga-depth"
"""How many handlers that lend their places wait for the call, one for the other."""
MAX_DEPTH = 8
"""What is nested deeper counts as this deep."""


class Lender(Protocol):
    """The places of a node."""

    def lend(self) -> None:
        """A handler that has a place waits."""
        ...

    def take_back(self) -> None:
        """It goes on, or has ended."""
        ...


class Holder:
    """A handler that has a place, and lends it while it waits for at least one call of its own.

    Make it in the event loop of the places. The handler may call on any other one, so `waits` and `goes_on` may be
    called on any: the places hear of it on their own.

    Attributes:
        depth: of the calls that it makes.
        has_ended: tasks that it left behind may go on making calls. Nobody waits for these.
    """

    __slots__ = ("_calls", "_loop", "_places", "_thread_id", "depth", "has_ended")

    def __init__(self, places: Lender, depth: int) -> None:
        self._places = places
        self._loop, self._thread_id = asyncio.get_running_loop(), get_ident()
        self._calls = 0
        self.has_ended = False
        self.depth = min(depth, MAX_DEPTH)

    def waits(self) -> None:
        """It makes a call."""
        self._on_loop(self._waits)

    def goes_on(self) -> None:
        """Such a call has ended."""
        self._on_loop(self._goes_on)

    def ended(self) -> None:
        """The handler has ended. Tasks that it left behind may still wait."""
        if self._calls:
            self._places.take_back()
        self.has_ended = True

    def _waits(self) -> None:
        self._calls += 1
        if self._calls == 1 and not self.has_ended:
            self._places.lend()

    def _goes_on(self) -> None:
        self._calls -= 1
        if self._calls == 0 and not self.has_ended:
            self._places.take_back()

    def _on_loop(self, step: Callable[[], None]) -> None:
        if get_ident() == self._thread_id:
            step()
            return
        with suppress(RuntimeError):  # the loop is closed: nobody waits for a place any more
            self._loop.call_soon_threadsafe(step)


holding: ContextVar[Holder | None] = ContextVar("catga_holding", default=None)
"""The handler that runs here, if it lends its place."""


def depth_in(headers: Mapping[str, str] | None) -> int:
    """How deep a call with these headers is nested."""
    text = "" if headers is None else headers.get(HEADER, "")
    return min(int(text), MAX_DEPTH) if text.isascii() and text.isdigit() and len(text) < 3 else 0
