"""What a call depends on: the nodes where handlers hold their places until it is answered.

A handler keeps its place while it waits for what it sends. Were all places of a node held by handlers that wait for
calls to this very node, directly or by way of others, nothing would go on before the deadline. So a handler that takes
one of the last places of its node leaves the node's mark in its context. All that it sends takes the marks along, and
so does what the handlers of that send in turn. A node counts its own mark in what comes: such a call need not wait for
those that wait for it.
"""

import os
from collections.abc import Mapping
from contextvars import ContextVar

HEADER = "catga-holds"
MARK = 9
"""Characters of a mark, with the space before it."""
MAX_MARKS = 64
"""Marks that travel: the newest."""

holding: ContextVar[str] = ContextVar("catga_holding", default="")
"""The marks of the nodes whose places are held until what runs here ends."""


def new_mark() -> str:
    """Return a mark for the life of a node, which nobody else guesses."""
    return " " + os.urandom(4).hex()


def marks_in(headers: Mapping[str, str] | None) -> str:
    """The marks that came with a call."""
    return "" if headers is None else headers.get(HEADER, "")[-MAX_MARKS * MARK :]
