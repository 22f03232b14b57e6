"""Bodies: messages and values to bytes and back, typed by class.

msgspec encodes and decodes dataclasses, Structs and attrs classes itself; pydantic models go through their
own validation (`catga.codec.models`).
"""

from typing import Any, get_origin

import msgspec

from catga.codec.losses import obstacles
from catga.codec.models import ModelDecoders, encode_model
from catga.codec.variables import members
from catga.errors import ANSWER, MESSAGE, InvalidMessageError, refused
from catga.messages import check_name, is_request, options_of, response_type, wire_name
from catga.result import Failure, Success

_encoder = msgspec.msgpack.Encoder(enc_hook=encode_model)


def encode(value: Any) -> bytes:
    """`value` as msgpack.

    Raises:
        InvalidMessageError: it holds something that cannot be encoded.
    """
    try:
        return _encoder.encode(value)
    except Exception as error:
        raise refused(f"{type(value).__qualname__} cannot be encoded: {error}") from error


class Codec:
    """All that the wire needs to know of one message class, worked out once.

    Raises:
        InvalidMessageError: its fields, or its response type, cannot be decoded, or not to what was sent; or its name
            is one of catga's own.
    """

    __slots__ = ("_decoder", "_response_decoder", "cls", "idempotent", "name", "timeout")

    def __init__(self, cls: type) -> None:
        check_name(cls)
        options = options_of(cls)
        self.cls = cls
        self.name = wire_name(cls)
        self.idempotent = options.idempotent
        self.timeout = options.timeout
        self._decoder = _decoder_for(cls, self.name)
        response: Any = response_type(cls) if is_request(cls) else None
        if any((get_origin(member) or member) in (Success, Failure) for member in members(response)):
            text = "names a result: derive from Request[R] with what a success holds, e.g. Request[int]"
            raise refused(f"the response of {self.name} {text}")
        self._response_decoder = _decoder_for(response, f"the response of {self.name}")

    def decode(self, body: bytes) -> Any:
        """The message in `body`. Raises `InvalidMessageError`, whose ``details`` have the message's ``name`` and the
        field's ``path``."""
        try:
            return self._decoder.decode(body)
        except Exception as error:
            raise _invalid(error, self.name, self.name, MESSAGE) from error

    def copy(self, message: Any) -> Any:
        """`message` as it would arrive at another node. Raises `InvalidMessageError`."""
        return self.decode(encode(message))

    def decode_response(self, body: bytes) -> Any:
        """The value in `body`; None, an event's. Raises like `decode`; what is refused is an `ANSWER`."""
        try:
            return self._response_decoder.decode(body)
        except Exception as error:
            raise _invalid(error, f"the response of {self.name}", self.name, ANSWER) from error


def _decoder_for(cls: Any, what: str) -> "msgspec.msgpack.Decoder[Any]":
    try:
        decoder = msgspec.msgpack.Decoder(cls, dec_hook=ModelDecoders().decode)
        obstacle = next(obstacles(cls), None)
    except Exception as error:  # of msgspec, of pydantic, or of the class's own annotations
        raise refused(f"{what} cannot travel: {str(error) or repr(error)}") from error
    if obstacle is not None:
        raise refused(f"{what} cannot travel: {obstacle}")
    return decoder


def _invalid(error: Exception, what: str, name: str, refuses: str) -> InvalidMessageError:
    text = str(error)
    path = text.rpartition("at `")[2].rstrip("`") if "at `" in text else "$"
    return refused(f"{what} is invalid: {text}", refuses, path=path, name=name)
