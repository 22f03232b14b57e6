"""Handlers that are classes: an instance a message, made by a `Resolver` with its dependencies."""

import functools
import inspect
from typing import Any, Protocol, TypeVar

from catga.abc import Resolver
from catga.errors import InvalidMessageError

M_contra = TypeVar("M_contra", contravariant=True)


class HandlerObject(Protocol[M_contra]):
    """What a handler class makes: an object with ``handle(message)``, ``async`` or not."""

    def handle(self, message: M_contra, /) -> Any: ...


class ClassHandler:
    """Calls ``handle`` of an instance of `cls` for each message.

    Args:
        resolver: makes the instances; None calls ``cls()``.
    """

    def __init__(self, cls: type[HandlerObject[Any]], resolver: Resolver | None) -> None:
        handle = getattr(cls, "handle", None)
        if not inspect.isfunction(handle):
            raise InvalidMessageError(f"{cls!r} is no handler class: give it a method `handle(self, message)`")
        self.cls = cls
        self.resolver = resolver
        functools.update_wrapper(self, handle, updated=())

    async def __call__(self, message: Any) -> Any:
        if self.resolver is None:
            return await self._handle(self.cls(), message)
        async with self.resolver.resolve(self.cls) as instance:
            return await self._handle(instance, message)

    async def _handle(self, instance: HandlerObject[Any], message: Any) -> Any:
        value = instance.handle(message)
        return await value if hasattr(value, "__await__") else value
