"""One process: the handler table, the compiled pipeline, and the verbs."""

from catga.mediator.ambient import current
from catga.mediator.check import Problem
from catga.mediator.context import MessageContext, MessageInfo, correlate, current_message
from catga.mediator.mediator import Mediator
from catga.mediator.router import Handles, Router

__all__ = [
    "Handles",
    "Mediator",
    "MessageContext",
    "MessageInfo",
    "Problem",
    "Router",
    "correlate",
    "current",
    "current_message",
]
