"""One process: the handler table, the compiled pipeline, and the verbs."""

from catga.mediator.mediator import Handles, Mediator

__all__ = ["Handles", "Mediator"]
