"""Who a message is and where it comes from: what follows it through nested sends and across nodes.

Its ids need `MessageContext`, which is installed by ``mediator.use(MessageContext())``. What `catga.context` gave needs
nothing.
"""

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import msgspec

from catga.abc import Forward, Handle
from catga.mediator.carried import carried, values_of
from catga.result import CatgaResult

MESSAGE_ID = "catga-message-id"
CORRELATION_ID = "catga-correlation-id"
CAUSATION_ID = "catga-causation-id"
MAX_ID = 128
"""Characters of an id; a header that is longer is ignored."""


class MessageInfo(msgspec.Struct, frozen=True):
    """What came with a message. The ids are empty without `MessageContext`, and outside of a handler.

    Attributes:
        message_id: of this send or publish; the same on every node that is tried.
        correlation_id: of the whole conversation: the first message's id, or what `correlate` gave.
        causation_id: of the message whose handler sent this one; empty for the first.
        node_id: of the node that runs the handler; empty where there is no cluster.
        context: what the sender gave by `catga.context`, and those before it.
    """

    message_id: str = ""
    correlation_id: str = ""
    causation_id: str = ""
    node_id: str = ""
    context: Mapping[str, str] = {}


_NO_IDS = MessageInfo()
_current: ContextVar[MessageInfo] = ContextVar("catga_current_message", default=_NO_IDS)
_correlation: ContextVar[str] = ContextVar("catga_correlation_id", default="")
_node_id: ContextVar[str] = ContextVar("catga_node_id", default="")


def current_message() -> MessageInfo:
    """Return what came with the message whose handler runs now: its context, and with `MessageContext` its ids."""
    ids, headers = _current.get(), carried.get()
    return ids if headers is None else msgspec.structs.replace(ids, context=values_of(headers))


@contextmanager
def correlate(correlation_id: str) -> Generator[None]:
    """Give what is sent in this block a correlation id from outside, e.g. that of an HTTP request."""
    token = _correlation.set(correlation_id if _is_id(correlation_id) else "")
    try:
        yield
    finally:
        _correlation.reset(token)


@contextmanager
def running_on(node_id: str) -> Generator[None]:
    """What is handled in this block is handled by that node."""
    token = _node_id.set(node_id)
    try:
        yield
    finally:
        _node_id.reset(token)


def new_id() -> str:
    """128 random bits, in hexadecimal."""
    return os.urandom(16).hex()


class MessageContext:
    """The interceptor that gives messages their ids; see `current_message`."""

    async def sending(self, message: Any, headers: dict[str, str], forward: Forward) -> Any:
        """Write the ids of a new message into its headers."""
        cause = _current.get()
        message_id = headers[MESSAGE_ID] = new_id()
        headers[CORRELATION_ID] = _correlation.get() or cause.correlation_id or message_id
        if cause.message_id:
            headers[CAUSATION_ID] = cause.message_id
        return await forward(message, headers)

    async def handling(self, message: Any, headers: Mapping[str, str], handle: Handle) -> CatgaResult[Any]:
        """Let the handler see the ids; a sender without `MessageContext` left none, so they begin here."""
        token = _current.set(_info(headers))
        outside = _correlation.set("")
        try:
            return await handle(message)
        finally:
            _correlation.reset(outside)
            _current.reset(token)


def _info(headers: Mapping[str, str]) -> MessageInfo:
    message_id = _id(headers, MESSAGE_ID) or new_id()
    correlation_id = _id(headers, CORRELATION_ID) or message_id
    return MessageInfo(message_id, correlation_id, _id(headers, CAUSATION_ID), _node_id.get())


def _id(headers: Mapping[str, str], name: str) -> str:
    value = headers.get(name, "")
    return value if _is_id(value) else ""


def _is_id(value: str) -> bool:
    return 0 < len(value) <= MAX_ID and value.isprintable()
