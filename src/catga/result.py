"""What `send` returns: `Success(value)` or `Failure(error)`."""

from collections.abc import Iterable
from typing import Any, Generic, Literal, NoReturn, TypeAlias, TypeVar

import msgspec

from catga.errors import (
    REFUSED,
    CatgaError,
    Execution,
    HandlerError,
    MaybeExecutedError,
    NoNodeAvailableError,
    what_is_refused,
    with_doubt,
)

T = TypeVar("T")


class ResultMetadata(msgspec.Struct, frozen=True, gc=False):
    """Where a result comes from: the node that ran the handler, and how many attempts it took."""

    node_id: str = ""
    attempts: int = 1


LOCAL = ResultMetadata()
"""The metadata of a call that stayed in a process without a cluster."""


_NO_TRUTH = "a result is neither true nor false: ask `is_success`, or use `match`"


class Success(msgspec.Struct, Generic[T], frozen=True, gc=False):
    """A handler's value. Use `unwrap`, or ``match`` with ``case Success(value)``."""

    # gc=False: one is made at every call, and only a value that holds its own result could make a cycle.
    value: T
    metadata: ResultMetadata = LOCAL

    def __bool__(self) -> NoReturn:
        raise TypeError(_NO_TRUTH)

    @property
    def is_success(self) -> Literal[True]:
        return True

    def unwrap(self) -> T:
        """The value."""
        return self.value

    def unwrap_or(self, default: object) -> T:
        """The value; `default` is for failures."""
        return self.value


class Failure(msgspec.Struct, frozen=True):
    """Why there is no value. ``error`` is an exception: `unwrap` raises it."""

    error: CatgaError
    metadata: ResultMetadata = LOCAL

    def __bool__(self) -> NoReturn:
        raise TypeError(_NO_TRUTH)

    @property
    def is_success(self) -> Literal[False]:
        return False

    def unwrap(self) -> NoReturn:
        """Raise the error."""
        raise self.error

    def unwrap_or(self, default: T) -> T:
        """`default`, as there is no value."""
        return default


CatgaResult: TypeAlias = Success[T] | Failure
"""``CatgaResult[T]`` is ``Success[T] | Failure``: type checkers narrow it by ``match`` and by
``isinstance``, mypy also by ``is_success``."""

_OF_SEVERAL_KINDS: dict[Execution, type[CatgaError]] = {
    Execution.NO: NoNodeAvailableError,
    Execution.MAYBE: MaybeExecutedError,
    Execution.ANSWERED: HandlerError,
}


def told(result: CatgaResult[Any]) -> dict[str, Any]:
    """`result` without its value, as plain data."""
    if isinstance(result, Success):
        return {"ok": True}
    error = result.error
    return {"code": error.code, "message": error.message, "execution": error.execution.value}


def joint_failure(results: Iterable[CatgaResult[Any]], text: str, details: dict[str, Any]) -> Failure:
    """Make one failure of results that belong together, of which at least one is a failure.

    Its error has the class of those that failed if that is one, and the details of a failure that is alone. Its
    execution is NO only if nothing ran, and ANSWERED only if everything was answered. It is retryable if that would
    repeat no success.
    """
    every = list(results)
    failures = [result for result in every if isinstance(result, Failure)]
    execution = _execution_of(every)
    kinds = {type(failure.error) for failure in failures}
    cls = kinds.pop() if len(kinds) == 1 else _OF_SEVERAL_KINDS[execution]
    first = failures[0].error
    own: Any = getattr(first, "details", None)  # an error of the user's may have anything there
    if len(failures) == 1 and isinstance(own, dict):
        details = {**own, **details}
    elif cls is type(first) and (what := what_is_refused(first)):
        details = {**details, REFUSED: what}
    is_retryable = len(failures) == len(every) and all(failure.error.is_retryable for failure in failures)
    try:
        error = CatgaError.rebuild(cls.code, text, details, is_retryable=is_retryable, execution=execution)
    except Exception:  # noqa: BLE001 - a class of the user's that cannot be made so
        error = CatgaError(text, details={"code": cls.code, **details})
        error.is_retryable, error.execution = is_retryable, execution
    with_doubt(error, (failure.error for failure in failures))
    error.__cause__ = first
    return Failure(error, failures[0].metadata)


def _execution_of(results: Iterable[CatgaResult[Any]]) -> Execution:
    """What is known of several runs together: MAYBE unless all are alike. A success was answered."""
    kinds = {result.error.execution if isinstance(result, Failure) else Execution.ANSWERED for result in results}
    return kinds.pop() if len(kinds) == 1 else Execution.MAYBE
