"""Code that runs in a context of its own, as on another node, and in the task of its caller."""

import contextvars
from collections.abc import Callable, Coroutine, Generator
from typing import Any, ParamSpec, TypeVar

from catga.mediator.carried import carried

P = ParamSpec("P")
T = TypeVar("T")


class Isolation:
    """The context of who makes this, for code that others run: it sees nothing of theirs but what `context` gave."""

    def __init__(self) -> None:
        self._base = contextvars.copy_context()

    def __call__(self, run: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        """`run`, each time in a copy of that context."""

        async def alone(*args: P.args, **kwargs: P.kwargs) -> T:
            own = self._base.copy()
            own.run(carried.set, carried.get())
            result: T = await _Within(own, run(*args, **kwargs))
            return result

        return alone


class _Within:
    """Awaits a coroutine, each step of it in `own`."""

    def __init__(self, own: contextvars.Context, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._own = own
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, Any, Any]:
        send: Callable[[Any], Any] = self._coroutine.send
        throw: Callable[[Any], Any] = self._coroutine.throw
        step, argument = send, None
        while True:
            try:
                waited = self._own.run(step, argument)
            except StopIteration as end:
                return end.value
            try:
                step, argument = send, (yield waited)
            except BaseException as error:  # noqa: BLE001 - the coroutine's to handle
                step, argument = throw, error
