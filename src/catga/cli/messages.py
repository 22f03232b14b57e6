"""Messages from the command line: a class by name, and its fields as JSON."""

import sys
from pathlib import Path
from typing import Any

import msgspec

from catga.cli.failures import USAGE, CommandError
from catga.cli.loading import load
from catga.messages import is_event, is_request, wire_name


def message_of(target: str, body: str, app_dir: str, *, event: bool = False) -> Any:
    """The request (or event) of class `target` with the fields in `body`.

    Args:
        body: JSON, ``@file`` with JSON, or ``-`` for stdin.

    Raises:
        CommandError: the class or the fields are not right; the message names the field.
    """
    cls = load(target, app_dir, example="app:OrderCreated" if event else "app:CreateOrder")
    if not (is_event(cls) if event else is_request(cls)):
        raise CommandError(_mistaken(target, cls, event=event), USAGE)
    try:
        return _decode(cls, _text(body))
    except (msgspec.DecodeError, ValueError, TypeError) as error:
        raise CommandError(f"not a {wire_name(cls)}: {error}", USAGE) from error


def _mistaken(target: str, cls: Any, *, event: bool) -> str:
    """The error for a class that is not what the command takes; it names the command that takes it."""
    if event and is_request(cls):
        return f"{target} is not an event: it is a request, which `catga send` sends"
    if not event and is_event(cls):
        return f"{target} is not a request: it is an event, which `catga publish` and `catga broadcast` deliver"
    return f"{target} is not " + ("an event: derive it from Event" if event else "a request: derive it from Request[R]")


def _text(body: str) -> bytes:
    if body == "-":
        return sys.stdin.buffer.read()
    if body.startswith("@"):
        try:
            return Path(body[1:]).read_bytes()
        except OSError as error:
            raise CommandError(f"cannot read {body[1:]}: {error.strerror}", USAGE) from error
    return body.encode()


def _decode(cls: type, text: bytes) -> Any:
    validate = getattr(cls, "model_validate_json", None)  # pydantic
    if validate is not None:
        return validate(text)
    decode: Any = msgspec.json.decode
    return decode(text, type=cls)
