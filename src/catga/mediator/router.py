"""`Router`: handlers of one module of a program, for a mediator to include."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Generic, TypeVar, cast, get_origin, overload

from catga.abc import Behavior, Resolver
from catga.mediator.annotations import Handler, caller_frame, message_type_of, parameter_of
from catga.mediator.class_handler import ClassHandler, HandlerObject
from catga.mediator.registry import Registry
from catga.messages import Event, Request
from catga.result import CatgaResult

M = TypeVar("M")
M_co = TypeVar("M_co", covariant=True)
R = TypeVar("R")
H = TypeVar("H", bound=Callable[..., Any])
B = TypeVar("B", bound=Behavior)
Heard = TypeVar("Heard", bound=Awaitable[CatgaResult[None] | None] | CatgaResult[None] | None)
"""What the handler of an event returns: nothing, or why it failed."""


class Handles(Generic[M_co]):
    """The decorator that `Mediator.handles` returns: the type checker rejects a handler that takes another
    message or returns another type."""

    def __init__(self, register: Callable[[Handler], None]) -> None:
        self._register = register

    @overload
    def __call__(
        self: "Handles[Request[R]]", handler: Callable[[M_co], Awaitable[CatgaResult[R]]]
    ) -> Callable[[M_co], Awaitable[CatgaResult[R]]]: ...
    @overload
    def __call__(
        self: "Handles[Request[R]]", handler: Callable[[M_co], Awaitable[R]]
    ) -> Callable[[M_co], Awaitable[R]]: ...
    @overload
    def __call__(
        self: "Handles[Request[R]]", handler: Callable[[M_co], CatgaResult[R]]
    ) -> Callable[[M_co], CatgaResult[R]]: ...
    @overload
    def __call__(self: "Handles[Request[R]]", handler: Callable[[M_co], R]) -> Callable[[M_co], R]: ...
    @overload
    def __call__(  # type: ignore[overload-cannot-match]  # R is known by now, from the message class
        self: "Handles[Request[R]]", handler: Callable[[M_co], Awaitable[R | CatgaResult[R]] | R | CatgaResult[R]]
    ) -> Callable[[M_co], Awaitable[R | CatgaResult[R]] | R | CatgaResult[R]]: ...
    @overload
    def __call__(self: "Handles[Event]", handler: Callable[[M_co], Heard]) -> Callable[[M_co], Heard]: ...
    def __call__(self: "Handles[Any]", handler: Callable[[Any], Any]) -> Callable[[Any], Any]:
        self._register(handler)
        return handler


class Router:
    """Where handlers and behaviors are registered. A program of several modules has a router each, and its
    mediator includes them.

    Args:
        resolver: makes the instances of class-based handlers; by default the including mediator's, or
            ``HandlerClass()``.
    """

    def __init__(self, *, resolver: Resolver | None = None) -> None:
        self.registry = Registry()
        """The handler table, which a `DistributedMediator` made of this mediator shares."""
        self.resolver = resolver

    def handler(self, handler: H) -> H:
        """Register a function for the message class that annotates its first parameter.

        ``async def`` handlers run as tasks; plain ``def`` handlers are called in the event loop's thread and
        must not block.

        Raises:
            DuplicateHandlerError: the request has a handler already.
            InvalidMessageError: the parameter is not annotated with a request or an event class.
        """
        self.registry.add(message_type_of(handler, caller_frame(1)), handler)
        return handler

    def _add(self, message_type: type, handler: Handler) -> None:
        parameter_of(handler)
        self.registry.add(message_type, handler)

    def handles(self, message_type: type[M]) -> Handles[M]:
        """Like `handler`, with the class given: parameter and return type are then checked statically."""
        return Handles(lambda handler: self._add(message_type, handler))

    @overload
    def behavior(self, behavior: B, /) -> B: ...
    @overload
    def behavior(self, /, *, only: type | Iterable[type]) -> Callable[[B], B]: ...
    def behavior(
        self, behavior: B | None = None, /, *, only: type | Iterable[type] | None = None
    ) -> B | Callable[[B], B]:
        """Put a step around the handlers: ``async (message, call_next) -> value``. The first is outermost.

        Args:
            only: message classes (or bases of them) to which it is limited; an empty tuple is none at all.

        Raises:
            TypeError: `behavior` cannot be called, or `only` has something else than classes.
        """
        classes = None if only is None else _classes(only)

        def add(step: B) -> B:
            if not callable(step):
                raise TypeError(f"{step!r} is no behavior: it cannot be called with (message, call_next)")
            self.registry.add_behavior(step, classes)
            return step

        return add if behavior is None else add(behavior)

    def add_handler(self, message_type: type[M], handler: type[HandlerObject[M]]) -> None:
        """Register a class with ``handle(self, message)``: an instance a message, made by the resolver.

        Raises:
            DuplicateHandlerError: the request has a handler already.
            InvalidMessageError: `message_type` is no message class, or `handler` has no ``handle``.
        """
        self.registry.add(message_type, ClassHandler(handler, self.resolver))

    def include(self, router: "Router") -> None:
        """Take over the handlers that `router` has now. Its behaviors stay around its own handlers, inside
        those of this one.

        Raises:
            DuplicateHandlerError: a request of `router` has a handler here already; nothing was taken over.
        """
        self.registry.include(router.registry, self._adopted)

    def _adopted(self, handler: Handler) -> Handler:
        if isinstance(handler, ClassHandler) and handler.resolver is None:
            return ClassHandler(handler.cls, self.resolver)
        return handler


def _classes(only: type | Iterable[type]) -> tuple[type, ...]:
    is_one = isinstance(only, type) or get_origin(only) is not None or not isinstance(only, Iterable)
    classes: tuple[Any, ...] = (only,) if is_one else tuple(cast("Iterable[type]", only))
    wrong = [each for each in classes if not isinstance(each, type)]
    if wrong:
        raise TypeError(f"only={wrong[0]!r} is no class: name message classes, or bases of them")
    return classes
