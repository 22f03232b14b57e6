"""What the options of behaviors may be: exceptions, keys, stores."""

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


def expect_key(key: object) -> None:
    """Raise TypeError unless `key` is None or a function."""
    if key is not None and not callable(key):
        raise TypeError(f"key must be a function of the message, such as lambda order: order.number, got {key!r}")


def expect_store(store: object, method: str, examples: str) -> None:
    """Raise TypeError unless `store` is None or has `method`."""
    if store is not None and not hasattr(store, method):
        raise TypeError(f"store must be a store such as {examples}, got {store!r}")
