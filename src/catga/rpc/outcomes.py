"""How a call ended, as a frame: a result or an error on its way back, and the error at the other side."""

from collections.abc import Callable
from itertools import islice
from typing import Any, cast

import msgspec

from catga.codec import encode
from catga.errors import CatgaError, Execution, HandlerError, InvalidMessageError
from catga.result import CatgaResult, Failure, Success
from catga.rpc.wire import OVERHEAD, SMALL, Fault, Reply, decode_frame, encode_frame

MAX_FAULT = 8192
"""Bytes of a fault, at most: what is longer is cut."""


def frame_of(call_id: int, result: CatgaResult[Any], max_payload: Callable[[], int]) -> Reply | Fault:
    """The frame that carries `result`."""
    if type(result) is not Success:  # `isinstance` is slow with classes of Struct's kind
        return fault_of(call_id, cast(Failure, result).error)
    try:
        body = encode(result.value)
    except InvalidMessageError as error:
        return fault_of(call_id, HandlerError(f"the handler's value cannot travel: {error}"))
    if len(body) > SMALL and len(body) > (limit := max_payload() - OVERHEAD):
        text = f"the handler's value has {len(body)} bytes, the broker's limit is {limit}"
        return fault_of(call_id, HandlerError(text))
    return Reply(call_id, body)


def addressed(frame: Reply | Fault, call_id: int) -> Reply | Fault:
    """`frame`, for another attempt of the same request."""
    return frame if frame.id == call_id else msgspec.structs.replace(frame, id=call_id)


def fault_of(call_id: int, error: CatgaError) -> Fault:
    """The frame that carries `error`. What of it cannot travel goes as text, and what is too long is cut: an error of
    the user's own may have anything in it."""
    try:
        fault = Fault(call_id, error.code, error.message, error.details, error.is_retryable, error.execution)
        data = encode_frame(fault)
        if len(data) <= MAX_FAULT:
            return cast(Fault, decode_frame(data))  # a copy: who raised the error may go on with its details
    except Exception:  # noqa: BLE001, S110 - a property or a `__str__` of the user's, or what they gave
        pass
    return _as_text(call_id, error)


def _as_text(call_id: int, error: CatgaError) -> Fault:
    given: Any = _attribute(error, "details", {})
    items: Any = given.items() if type(given) is dict else [("details", given)] if given else ()  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    kept = {_text(key, 64): _text(value, 256) for key, value in islice(items, 16)}
    execution = _attribute(error, "execution", Execution.ANSWERED)
    if not isinstance(execution, Execution):
        execution = Execution.ANSWERED
    text = _text(error.args[0] if error.args else "", 2048)
    is_retryable = _attribute(error, "is_retryable", False) is True
    return Fault(call_id, _text(_attribute(error, "code", CatgaError.code), 128), text, kept, is_retryable, execution)


def _attribute(error: CatgaError, name: str, default: Any) -> Any:
    """What a class of the user's has there, be it a property that raises."""
    try:
        return getattr(error, name)
    except Exception:  # noqa: BLE001 - the user's
        return default


def _text(value: object, length: int) -> str:
    """`value` as text of so many characters at most, without lone surrogates, which no encoder takes (a file's name may
    have them)."""
    try:
        text = str(value)
    except Exception:  # noqa: BLE001 - a `__str__` of the user's
        text = f"<{type(value).__qualname__}>"
    if len(text) > length:
        text = text[: length - 1] + "…"
    return text.encode("utf-8", "backslashreplace").decode()


def error_of(fault: Fault) -> CatgaError:
    """The error that `fault` carries, as the class that was raised; a plain one if that cannot be made so."""
    try:
        return CatgaError.rebuild(
            fault.code, fault.text, fault.details, is_retryable=fault.is_retryable, execution=fault.execution
        )
    except Exception:  # noqa: BLE001 - a class of the user's, with properties or a `__new__` of its own
        error = CatgaError(fault.text, details={"code": fault.code, **fault.details})
        error.is_retryable, error.execution = fault.is_retryable, fault.execution
        return error
