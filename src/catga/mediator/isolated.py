"""Handlers that run in a context of their own, as on another node, and in the task of their caller."""

import contextvars
from collections.abc import Callable, Coroutine, Generator
from typing import Any, ParamSpec, TypeVar

from catga.mediator.carried import carried
from catga.mediator.nested import holding

P = ParamSpec("P")
T = TypeVar("T")


class Isolation:
    """The context of who makes this, for handlers that others await: they see nothing of theirs but what travels."""

    def __init__(self) -> None:
        self.base = contextvars.copy_context()
        self.base.run(carried.set, None)
        self.base.run(holding.set, None)

    def own(self) -> contextvars.Context:
        """A copy of that context, for one call."""
        own = self.base.copy()
        if beside := carried.get():
            own.run(carried.set, beside)
        return own

    def __call__(self, run: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        """`run`, each time in a copy of that context."""

        async def alone(*args: P.args, **kwargs: P.kwargs) -> T:
            own = self.own()
            own.run(holding.set, holding.get())  # it waits for what they send
            result: T = await Within(own, run(*args, **kwargs))
            return result

        return alone


class Within:
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
