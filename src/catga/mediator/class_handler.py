"""Handlers that are classes: an instance a message, made by a `Resolver` with its dependencies."""

import functools
import inspect
from typing import Any, Protocol, TypeVar

from catga.abc import Resolver
from catga.errors import InvalidMessageError
from catga.mediator.annotations import parameter_of
from catga.mediator.threads import Threads, finish, refuse_coroutine_function

M_contra = TypeVar("M_contra", contravariant=True)


class HandlerObject(Protocol[M_contra]):
    """What a handler class makes: an object with ``handle(message)``, ``async`` or not."""

    def handle(self, message: M_contra, /) -> Any: ...


class ClassHandler:
    """Calls ``handle`` of an instance of `cls` for each message.

    Args:
        resolver: makes the instances; None calls ``cls()``.
        in_thread: ``handle`` blocks, and runs in a thread; the resolver's context stays open until that has ended.
    """

    def __init__(self, cls: type[HandlerObject[Any]], resolver: Resolver | None, *, in_thread: bool = False) -> None:
        handle = getattr(cls, "handle", None)
        if not inspect.isfunction(handle):
            raise InvalidMessageError(f"{cls!r} is no handler class: give it a method `handle(self, message)`")
        parameter_of(handle.__get__(object()) if inspect.getattr_static(cls, "handle") is handle else handle)
        if in_thread:
            refuse_coroutine_function(handle)
        self.cls = cls
        self.resolver = resolver
        self.in_thread = in_thread
        functools.update_wrapper(self, handle, updated=())

    async def __call__(self, message: Any) -> Any:
        if self.in_thread:
            return await finish(lambda threads: self._run(message, threads), message)
        return await self._run(message, None)

    async def _run(self, message: Any, threads: Threads | None) -> Any:
        if self.resolver is None:
            return await self._handle(self.cls(), message, threads)
        async with self.resolver.resolve(self.cls) as instance:
            return await self._handle(instance, message, threads)

    async def _handle(self, instance: HandlerObject[Any], message: Any, threads: Threads | None) -> Any:
        if threads is not None:
            return await threads.call(instance.handle, message)
        value = instance.handle(message)
        return await value if hasattr(value, "__await__") else value
