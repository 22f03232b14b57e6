"""Every error catga raises or returns, one tree:

    CatgaError
    ├── HandlerNotFoundError
    ├── DuplicateHandlerError
    ├── InvalidMessageError
    ├── CatgaTimeoutError          (also a TimeoutError)
    ├── HandlerError
    ├── OverloadedError
    │   └── RateLimitedError
    ├── CircuitOpenError
    ├── InProgressError
    ├── StoreError
    ├── ClosedError
    ├── MissingExtraError          (also an ImportError)
    └── ClusterError
        ├── NodeNotFoundError
        ├── NoNodeAvailableError
        └── MaybeExecutedError

An error crosses the wire as its ``code``, text and ``details`` and is rebuilt as the same class by
the caller. A subclass of `CatgaError` that names a ``code`` of its own, defined on both sides,
crosses the same way. Two classes with one code are refused.
"""

import inspect
from collections.abc import Iterable, Sequence
from contextlib import suppress
from enum import Enum
from types import FrameType
from typing import Any, ClassVar, TypeVar, cast


class Execution(Enum):
    """What is known about the handler when a call failed. Failover is decided on this, nothing else."""

    NO = "no"
    """It never ran: trying another node is always safe."""
    MAYBE = "maybe"
    """It may have run: only an idempotent message is tried again."""
    ANSWERED = "answered"
    """The failure is the node's answer: another node would give the same."""


_MAIN = frozenset(("__main__", "__mp_main__"))


def _is_same_class(one: type, other: type) -> bool:
    """Whether a class was only defined again: by a reload, or as the script that is also imported."""
    modules = {one.__module__, other.__module__}
    return one.__qualname__ == other.__qualname__ and (len(modules) == 1 or bool(modules & _MAIN))


class CatgaError(Exception):
    """The root of the tree.

    Attributes:
        code: stable across versions and languages; what programs compare.
        is_retryable: whether the same call may succeed later, and does no harm if the handler ran before: a call that
            may have run and is not idempotent is never retryable.
        execution: whether the handler ran.
        details: plain data (str, numbers, lists, dicts) that explains the failure.
    """

    code: ClassVar[str] = "catga"
    is_retryable: bool = False
    execution: Execution = Execution.ANSWERED

    _classes: ClassVar[dict[str, type["CatgaError"]]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "code" in cls.__dict__:
            owner = CatgaError if cls.code == CatgaError.code else CatgaError._classes.get(cls.code, cls)
            if not _is_same_class(owner, cls):
                raise TypeError(
                    f"{cls!r} has the code {cls.code!r} of {owner!r}: each error class needs one of its own"
                )
            CatgaError._classes[cls.code] = cls

    def __init__(self, message: str = "", *, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.details: dict[str, Any] = {} if details is None else details

    @property
    def message(self) -> str:
        """The text, without the code."""
        return str(self.args[0]) if self.args else ""

    @staticmethod
    def rebuild(
        code: str,
        message: str,
        details: dict[str, Any],
        *,
        is_retryable: bool = False,
        execution: Execution = Execution.ANSWERED,
    ) -> "CatgaError":
        """The error a peer described; a plain `CatgaError` where this process knows no such code.

        A subclass's own ``__init__`` is not called: its arguments did not travel.
        """
        cls = CatgaError._classes.get(code, CatgaError)
        error = cls.__new__(cls, message)
        CatgaError.__init__(error, message, details=details)
        error.is_retryable = is_retryable
        error.execution = execution
        if cls is CatgaError:
            error.details = {"code": code, **error.details}
        return error


C = TypeVar("C", bound=CatgaError)


class HandlerNotFoundError(CatgaError):
    """No handler is registered for this message here, or on any node of the cluster."""

    code = "handler_not_found"
    execution = Execution.NO


class DuplicateHandlerError(CatgaError):
    """A second handler for one request type, or two message types under one wire name."""

    code = "duplicate_handler"


class InvalidMessageError(CatgaError):
    """A message that cannot be encoded, decoded or routed. ``details["path"]`` names the field."""

    code = "invalid_message"


def settle_doubt(error: C, *, idempotent: bool) -> C:
    """Return `error`, with which a message ended. It is not retryable if the message may have run, and is not
    `idempotent`: this is decided once, where the message is known."""
    with suppress(Exception):  # a class of the user's may not let it be read, or set
        if error.execution is Execution.MAYBE and not idempotent and error.is_retryable:
            error.is_retryable = False
    return error


def is_in_doubt(error: CatgaError) -> bool:
    """Return whether something that must not run twice may have run, here or behind the node that answered."""
    if error.is_retryable:
        return False
    # An answer does not tell the execution of what its handler sent. But it is of a class that is retryable otherwise.
    was_lowered = type(error).is_retryable is True
    if was_lowered or error.execution is Execution.MAYBE or isinstance(error, MaybeExecutedError):
        return True
    details: Any = error.details
    return isinstance(details, dict) and IN_DOUBT in details


E = TypeVar("E", bound=BaseException)


def leaves(error: E) -> list[E]:
    """Return what an exception consists of: itself, or all that a group of them holds."""
    found: list[E] = []
    todo = [error]
    while todo:
        each = todo.pop()
        parts = _parts(each)
        todo += reversed(parts)
        if not parts:  # no group is empty
            found.append(each)
    return found


def _parts(error: E) -> Sequence[E]:
    parts: tuple[Any, ...] = ()
    if isinstance(error, BaseExceptionGroup):
        parts = cast("BaseExceptionGroup[Any]", error).exceptions
    return parts


def holds_doubt(error: BaseException) -> bool:
    """Return whether `error` is in doubt, or what it was made of: what a group holds, and what led to it.

    ``from None`` says that nothing did, except of a group, as `asyncio.TaskGroup` raises its own so. What one of our
    callers handles now did not lead to it either, though Python says so (``__context__``).
    """
    seen, todo = set[int](), [error]
    while todo:
        each = todo.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if _is_doubted(each):
            return True
        todo += _parts(each)
        if each.__cause__ is not None:
            todo.append(each.__cause__)
        context = each.__context__
        is_told = isinstance(each, BaseExceptionGroup) or not each.__suppress_context__
        if context is not None and is_told and not _is_handled_above(context):
            todo.append(context)
    return False


def _is_handled_above(error: BaseException) -> bool:
    """Return whether a frame that waits for the current one has caught `error`."""
    traceback = error.__traceback__  # begins with the frame that caught it
    frame: FrameType | None = inspect.currentframe()
    while traceback is not None and frame is not None:
        if frame is traceback.tb_frame:
            return True
        frame = frame.f_back
    return False


def with_doubt(error: C, parts: Iterable[BaseException]) -> C:
    """Return `error`, which stands for `parts`. It says so in its details if one of them holds doubt, and neither its
    class nor its execution tells."""
    if any(map(holds_doubt, parts)) and not _is_doubted(error):
        error.details = {IN_DOUBT: True, **error.details}
    return error


def as_answer(error: C) -> C:
    """Return `error`, which a handler raised: its own call was answered. That what it sent is in doubt stays known."""
    was_doubted = _is_doubted(error)
    error.execution = Execution.ANSWERED
    if was_doubted and not _is_doubted(error):
        error.details = {IN_DOUBT: True, **error.details}
    return error


def _is_doubted(error: BaseException) -> bool:
    try:
        return isinstance(error, CatgaError) and is_in_doubt(error)
    except Exception:  # noqa: BLE001 - a class of the user's may not let it be read
        return False


IN_DOUBT = "catga_in_doubt"
"""Reserved in the ``details`` of an error that stands for others: one of them may have run, and must not run twice."""

REFUSED = "catga_refused"
"""Reserved in the ``details`` of an `InvalidMessageError`: what catga itself refused, if it did. They travel."""
MESSAGE = "message"
"""A message, on its way to its handler."""
INSIDE = "message, by a behavior"
"""A message, by what stands around its handler."""
NESTED = "message of a handler"
"""A message that a handler sent. The handler passed the error on to its own caller."""
ANSWER = "answer"
"""A handler's value, on its way back."""

_PASSED_ON = {INSIDE: MESSAGE, MESSAGE: NESTED}


def refused(text: str, what: str = MESSAGE, **details: Any) -> InvalidMessageError:
    """Return the error for `what` catga refuses; one that a program makes itself says nothing of that."""
    return InvalidMessageError(text, details={**details, REFUSED: what})


def inside(error: InvalidMessageError) -> InvalidMessageError:
    """Return `error`, by which something was refused, as one that a behavior raises of the message it was given."""
    error.details[REFUSED] = INSIDE
    return error


def what_is_refused(error: CatgaError) -> str | None:
    """Return what catga itself refused, if that is what `error` tells."""
    details: Any = error.details if error.code == InvalidMessageError.code else None
    what: Any = details.get(REFUSED) if isinstance(details, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return what if isinstance(what, str) else None


def passed_on(error: CatgaError) -> CatgaError:
    """Return `error`, which a handler raised, or a behavior around it: what was refused is the handler's own message,
    or one that it sent."""
    if type(error) is InvalidMessageError and (what := _PASSED_ON.get(what_is_refused(error) or "")):
        error.details = {**error.details, REFUSED: what}
    return error


class CatgaTimeoutError(CatgaError, TimeoutError):
    """The deadline passed. ``execution`` tells whether the handler may have run: then it is retryable only if the
    message is idempotent."""

    code = "timeout"
    is_retryable = True
    execution = Execution.MAYBE


class HandlerError(CatgaError):
    """A handler raised. ``details``: ``type`` (qualified name) and ``message`` of what it raised."""

    code = "handler_error"


class OverloadedError(CatgaError):
    """Refused before running: the node's concurrency and its queue are full."""

    code = "overloaded"
    is_retryable = True
    execution = Execution.NO


class RateLimitedError(OverloadedError):
    """The `RateLimit` behavior refused it. ``details["retry_after"]``: seconds until the next has a chance."""

    code = "rate_limited"


class CircuitOpenError(CatgaError):
    """The `CircuitBreaker` behavior refused it: what it needs has failed too often of late.
    ``details["retry_after"]``: seconds until it is tried again."""

    code = "circuit_open"
    is_retryable = True


class InProgressError(CatgaError):
    """The `Idempotency` behavior refused it: the same request is still being run."""

    code = "in_progress"
    is_retryable = True


class StoreError(CatgaError):
    """The store behind a behavior cannot be reached, or refused."""

    code = "store"
    is_retryable = True


class ClosedError(CatgaError):
    """The mediator is not started, is draining, or has stopped."""

    code = "closed"
    execution = Execution.NO


class MissingExtraError(CatgaError, ImportError):
    """An optional dependency is not installed; the message has the install line."""

    code = "missing_extra"


class ClusterError(CatgaError):
    """The bus or the cluster failed, not the handler."""

    code = "cluster"
    is_retryable = True
    execution = Execution.NO


class NodeNotFoundError(ClusterError):
    """`send_to_node` named a node that is not a member."""

    code = "node_not_found"
    is_retryable = False


class NoNodeAvailableError(ClusterError):
    """Nodes that handle this message exist, but none could take it."""

    code = "no_node_available"


class MaybeExecutedError(ClusterError):
    """The node died or went silent after the request left, and the message is not idempotent."""

    code = "maybe_executed"
    is_retryable = False
    execution = Execution.MAYBE
