"""One log line a message: which, how long, and why it failed. Never what is in it."""

import logging
import time
from asyncio import CancelledError
from typing import Any

from catga.abc import CallNext
from catga.errors import CatgaError
from catga.mediator.message_context import current_message
from catga.messages import wire_name

HANDLED = "%(catga_message)s handled in %(catga_seconds).3f s"
FAILED = "%(catga_message)s failed after %(catga_seconds).3f s: %(catga_error)s"


class Logging:
    """Logs ``shop.Order handled in 0.003 s`` or ``shop.Order failed after 0.003 s: timeout``.

    The records have the fields ``catga_message``, ``catga_seconds``, ``catga_error`` and, with `MessageContext`,
    ``catga_message_id`` and ``catga_correlation_id``.

    Args:
        logger: by default ``catga.handlers``.
        level: of what went well; failures are warnings.
    """

    def __init__(self, logger: logging.Logger | None = None, *, level: int = logging.INFO) -> None:
        self._logger = logger or logging.getLogger("catga.handlers")
        self._level = level

    async def __call__(self, message: object, call_next: CallNext[Any, Any]) -> Any:
        started = time.perf_counter()
        try:
            value = await call_next(message)
        except BaseException as error:
            fields = {**_fields(message, started), "catga_error": _code(error)}
            self._logger.warning(FAILED, fields, extra=fields)
            raise
        if self._logger.isEnabledFor(self._level):
            fields = _fields(message, started)
            self._logger.log(self._level, HANDLED, fields, extra=fields)
        return value


def _fields(message: object, started: float) -> dict[str, object]:
    fields: dict[str, object] = {
        "catga_message": wire_name(type(message)),
        "catga_seconds": time.perf_counter() - started,
    }
    info = current_message()
    if info.message_id:
        fields |= {"catga_message_id": info.message_id, "catga_correlation_id": info.correlation_id}
    return fields


def _code(error: BaseException) -> str:
    if isinstance(error, CancelledError):
        return "cancelled"
    return error.code if isinstance(error, CatgaError) else type(error).__qualname__
