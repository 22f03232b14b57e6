"""A box for secrets, and tracebacks without them."""

import functools
import sys
import traceback
from collections.abc import Callable
from typing import Generic, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
T_co = TypeVar("T_co", covariant=True)


class Hidden(Generic[T_co]):
    """Holds a secret that its repr does not tell, so that a traceback with local variables does not show it either.

    Use what `reveal` returns at once, as an argument: under a name it would be such a variable.
    """

    __slots__ = ("_value",)

    def __init__(self, value: T_co) -> None:
        self._value = value

    def __repr__(self) -> str:
        return "Hidden(***)"

    def reveal(self) -> T_co:
        """The secret."""
        return self._value


def shows_no_locals(function: Callable[P, R]) -> Callable[P, R]:
    """Take the local variables out of the traceback of whatever `function` raises: its arguments are secrets, and a
    traceback may be shown with local variables."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        before = sys.exc_info()[1]
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            del args, kwargs
            _clear(error, before)
            raise

    return call


def _clear(error: BaseException | None, before: BaseException | None) -> None:
    """Clear the frames of `error`, and of what it came from, but not of what was handled `before`."""
    seen: set[int] = set()
    while error is not None and error is not before and id(error) not in seen:
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
