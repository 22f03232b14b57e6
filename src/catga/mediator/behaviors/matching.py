"""Which exceptions an option of a behavior means."""

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias, cast

Errors: TypeAlias = type[Exception] | Iterable[type[Exception]] | Callable[[Exception], bool]
"""An exception class, several of them, or a function that says whether it is meant."""


def matching(errors: Errors, option: str) -> Callable[[Exception], bool]:
    """Return a function that tells whether an exception is one of `errors`.

    Args:
        option: the name of the option, for the error.

    Raises:
        TypeError: `errors` is none of what it may be.
    """
    if isinstance(errors, type):
        classes: tuple[Any, ...] = (errors,)
    elif isinstance(errors, Iterable):
        classes = tuple(cast("Iterable[Any]", errors))
    elif callable(errors):
        return errors
    else:
        raise TypeError(f"{option} must be exception classes, or a function that takes an exception, got {errors!r}")
    wrong: list[Any] = [each for each in classes if not (isinstance(each, type) and issubclass(each, BaseException))]
    if wrong:
        raise TypeError(f"{option} must be exception classes, got {wrong[0]!r}")
    return lambda error: isinstance(error, classes)
