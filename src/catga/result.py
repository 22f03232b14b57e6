"""What `send` returns: `Success(value)` or `Failure(error)`."""

from typing import Generic, Literal, NoReturn, TypeAlias, TypeVar

import msgspec

from catga.errors import CatgaError

T = TypeVar("T")


class ResultMetadata(msgspec.Struct, frozen=True, gc=False):
    """Where a result comes from: the node that ran the handler, and how many attempts it took."""

    node_id: str = ""
    attempts: int = 1


LOCAL = ResultMetadata()
"""The metadata of a call that stayed in a process without a cluster."""


class Success(msgspec.Struct, Generic[T], frozen=True, gc=False):
    """A handler's value. Use `unwrap`, or ``match`` with ``case Success(value)``."""

    # gc=False: one is made at every call, and only a value that holds its own result could make a cycle.
    value: T
    metadata: ResultMetadata = LOCAL

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
