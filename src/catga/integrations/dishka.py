"""Class-based handlers from a dishka container: ``Mediator(resolver=DishkaResolver(container))``."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TypeVar

from dishka import AsyncContainer, Provider, Scope

from catga.mediator import Mediator, current

T = TypeVar("T")


class CatgaProvider(Provider):
    """Provides what `catga.current` gives as the `Mediator`, to handler classes and to what they depend on."""

    def __init__(self) -> None:
        super().__init__(scope=Scope.REQUEST)
        self.provide(_mediator)


def _mediator() -> Mediator:
    return current()


class DishkaResolver:
    """A `Resolver`: a request scope a message, closed when the message is handled.

    Handler classes must be provided, like every other dependency; `CatgaProvider` provides the `Mediator`.

    Raises:
        TypeError: `container` is not an `AsyncContainer`.
    """

    def __init__(self, container: AsyncContainer) -> None:
        if not isinstance(container, AsyncContainer):  # pyright: ignore[reportUnnecessaryIsInstance]
            text = "DishkaResolver takes an AsyncContainer, such as make_async_container(...) makes, got"
            raise TypeError(f"{text} {container!r}")
        self._container = container

    @asynccontextmanager
    async def resolve(self, cls: type[T], /) -> AsyncGenerator[T]:
        async with self._container() as scope:
            yield await scope.get(cls)
