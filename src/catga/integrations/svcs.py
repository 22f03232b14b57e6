"""Class-based handlers from a svcs registry: ``Mediator(resolver=SvcsResolver(registry))``."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import svcs

from catga.mediator import Mediator, current

T = TypeVar("T")


class SvcsResolver:
    """A `Resolver`: a container a message, closed when the message is handled.

    Handler classes must be registered, like every other service, but for `Mediator`: this registers it, as what
    `catga.current` gives.

    Raises:
        TypeError: `registry` is not a `svcs.Registry`.
    """

    def __init__(self, registry: svcs.Registry) -> None:
        if not isinstance(registry, svcs.Registry):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"SvcsResolver takes a svcs.Registry, got {registry!r}")
        self._registry = registry
        untyped: Any = registry  # in part
        untyped.register_factory(Mediator, current, enter=False)  # to enter a node is to start it

    @asynccontextmanager
    async def resolve(self, cls: type[T], /) -> AsyncGenerator[T]:
        async with svcs.Container(self._registry) as container:
            await container.aget(Mediator)  # from now on `get` has it, too, which refuses what can be entered
            yield await container.aget(cls)
