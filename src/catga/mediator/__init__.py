"""One process: the handler table, the compiled pipeline, and the verbs."""

from catga.mediator.ambient import current
from catga.mediator.carried import context
from catga.mediator.check import Problem
from catga.mediator.mediator import Mediator
from catga.mediator.message_context import MessageContext, MessageInfo, correlate, current_message
from catga.mediator.router import Handles, Router

__all__ = [
    "Handles",
    "Mediator",
    "MessageContext",
    "MessageInfo",
    "Problem",
    "Router",
    "context",
    "correlate",
    "current",
    "current_message",
]
