"""A box for secrets."""

from typing import Generic, TypeVar

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
