"""What the tests of behaviors share: two messages, an app around them, a store that fails."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from catga import Event, Failure, Mediator, Request
from catga.errors import StoreError
from catga.mediator.behaviors import MemoryStore


@dataclass(frozen=True)
class Ask(Request[int]):
    number: int = 0


@dataclass(frozen=True)
class Told(Event):
    number: int = 0


Run = Callable[[int], Awaitable[int]]


def mediator(behavior: Any, run: Run) -> Mediator:
    app = Mediator()
    app.behavior(behavior)

    @app.handler
    async def ask(request: Ask) -> int:
        return await run(request.number)

    @app.handler
    async def told(event: Told) -> None:
        await run(event.number)

    return app


def error_of(result: Any) -> Any:
    assert isinstance(result, Failure)
    return result.error


class BrokenStore:
    """A store that is out of reach."""

    def __init__(self, *, works: tuple[str, ...] = ()) -> None:
        self._inner = MemoryStore()
        self._works = works

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name) if name in self._works else self._fail

    async def _fail(self, *_: object) -> Any:
        raise StoreError("out of reach")


async def echo(number: int) -> int:
    return number
