"""A look at a message before its handler has it."""

import inspect
from collections.abc import Callable
from typing import Any

from catga.abc import CallNext
from catga.codec import Codec, encode
from catga.errors import InvalidMessageError, inside
from catga.messages import wire_name


class Validation:
    """Refuses invalid messages with `InvalidMessageError`.

    Args:
        validate: called with the message, ``async`` or not; it raises ValueError, TypeError or
            `InvalidMessageError`, or returns False. By default the model's own rules (types, ``msgspec.Meta``
            constraints, pydantic validators), which a message that came over the bus has passed already and a local
            one has not.
    """

    def __init__(self, validate: Callable[[Any], object] | None = None) -> None:
        self._codecs: dict[type, Codec] = {}
        self._validate = self._by_model if validate is None else validate

    async def __call__(self, message: object, call_next: CallNext[Any, Any]) -> Any:
        try:
            answer = self._validate(message)
            if (await answer if inspect.isawaitable(answer) else answer) is False:
                raise ValueError(f"{getattr(self._validate, '__name__', 'the validation')} says so")
        except (ValueError, TypeError) as error:
            text = f"{wire_name(type(message))} is invalid: {error}"
            raise InvalidMessageError(text, details={"path": "$"}) from error
        return await call_next(message)

    def _by_model(self, message: object) -> None:
        codec = self._codecs.get(type(message))
        try:
            if codec is None:
                codec = self._codecs[type(message)] = Codec(type(message))
            codec.decode(encode(message))
        except InvalidMessageError as error:
            raise inside(error) from error.__cause__
