"""How a failure is told in a span: its status, and the exceptions that were raised, each once in a trace."""

import traceback
from contextlib import suppress
from typing import cast

from opentelemetry.trace import Span, StatusCode

from catga.errors import CatgaError, HandlerError
from catga.integrations._telemetry import clean, outward, text_of

MAX_STACKTRACE = 32768
"""Characters; of a longer one the end is kept, which tells where it was raised."""
_TOLD = "__catga_told_in_trace__"
"""What an exception keeps: the trace in which it was told."""


def fail(span: Span, code: str, text: str) -> None:
    """Say that what `span` is about has failed."""
    span.set_attribute("error.type", code)
    span.set_status(StatusCode.ERROR, text or None)


def tell(span: Span, error: BaseException) -> None:
    """Add an event for what a handler raised, or for each of what the handlers of an event raised.

    An error that comes from somewhere else, as its sender has told or been told of it, is not repeated.
    """
    if not span.is_recording():
        return
    with suppress(Exception):  # whatever classes of the user's do: the call must not fail by it
        for raised in _raised(error):
            if not _is_told(span, raised):
                span.add_event("exception", _described(raised))
        remember(span, error)


def remember(span: Span, error: BaseException) -> None:
    """Keep in mind that this trace knows of `error`."""
    if not span.is_recording():
        return
    for each in (error, *_raised(error)):
        with suppress(Exception):  # a class of the user's may not let it be set
            setattr(each, _TOLD, span.get_span_context().trace_id)


def _is_told(span: Span, error: BaseException) -> bool:
    return getattr(error, _TOLD, None) == span.get_span_context().trace_id


def _raised(error: BaseException) -> list[BaseException]:
    """What was raised where `error` was made. Nothing, if it was made without anything being raised."""
    cause = error.__cause__
    if type(error) is HandlerError and error.__traceback__ is None and cause is not None:  # it only tells of it
        return [cause] if cause.__traceback__ is not None else _each(cause)
    return [] if isinstance(error, CatgaError) and error.__traceback__ is None else [error]


def _each(cause: BaseException) -> list[BaseException]:
    """What the handlers of one event raised, if that is what `cause` holds together."""
    if not isinstance(cause, ExceptionGroup):
        return [cause]
    group = cast("ExceptionGroup[Exception]", cause)
    return [raised for error in group.exceptions for raised in _raised(error)]


def _described(error: BaseException) -> dict[str, str]:
    kind = type(error)
    stacktrace = outward("".join(traceback.format_exception(error)))
    if len(stacktrace) > MAX_STACKTRACE:
        stacktrace = "…" + stacktrace[1 - MAX_STACKTRACE :]
    return {
        "exception.type": clean(f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")),
        "exception.message": text_of(error),
        "exception.stacktrace": stacktrace,
    }
