"""`Router`: handlers of one module of a program, for a mediator to include."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Generic, TypeVar, cast, get_origin, overload

from catga.abc import Behavior, Resolver
from catga.mediator.annotations import Handler, caller_frame, check_behavior, message_type_of, parameter_of
from catga.mediator.class_handler import ClassHandler, HandlerObject
from catga.mediator.registry import Registry
from catga.mediator.threads import ThreadHandler
from catga.messages import Event, Request, check_class
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

    @overload
    def handler(self, handler: H, /) -> H: ...
    @overload
    def handler(self, /, *, in_thread: bool) -> Callable[[H], H]: ...
    def handler(self, handler: H | None = None, /, *, in_thread: bool = False) -> H | Callable[[H], H]:
        """Register a function for the message class that annotates its first parameter.

        ``async def`` handlers run as tasks; plain ``def`` handlers are called in the event loop's thread and
        must not block.

        Args:
            in_thread: the function is a plain ``def`` that blocks: each call runs in a thread. A caller whose time is
                over gets its failure; the thread goes on, and keeps its place on the node until it ends.

        Raises:
            DuplicateHandlerError: the request has a handler already.
            InvalidMessageError: the parameter is not annotated with a request or an event class; or an ``async def``
                was to run in a thread.
            ClosedError: this router was included already.
        """
        frame = caller_frame(1)

        def add(function: H) -> H:
            self.registry.add(message_type_of(function, frame), ThreadHandler(function) if in_thread else function)
            return function

        return add if handler is None else add(handler)

    def _add(self, message_type: type, handler: Handler, in_thread: bool) -> None:
        parameter_of(handler)
        self.registry.add(message_type, ThreadHandler(handler) if in_thread else handler)

    def handles(self, message_type: type[M], *, in_thread: bool = False) -> Handles[M]:
        """Like `handler`, with the class given: parameter and return type are then checked statically.

        Raises like `handler`, and InvalidMessageError if `message_type` is no message class.
        """
        check_class(message_type)
        return Handles(lambda handler: self._add(message_type, handler, in_thread))

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
            TypeError: `behavior` cannot be called so, is a class, or has a ``yield``; or `only` has something else than
                classes.
            ClosedError: this router was included already.
        """
        classes = None if only is None else _classes(only)

        def add(step: B) -> B:
            check_behavior(step)
            self.registry.add_behavior(step, classes)
            return step

        return add if behavior is None else add(behavior)

    def add_handler(self, message_type: type[M], handler: type[HandlerObject[M]], *, in_thread: bool = False) -> None:
        """Register a class with ``handle(self, message)``: an instance a message, made by the resolver.

        Args:
            in_thread: ``handle`` is a plain method that blocks, and runs in a thread. The instance is made in the event
                loop, and what the resolver opened for it is closed when the thread has ended.

        Raises:
            DuplicateHandlerError: the request has a handler already.
            InvalidMessageError: `message_type` is no message class, or `handler` has no ``handle`` that takes a message
                alone, or its is an ``async def`` that was to run in a thread.
            ClosedError: this router was included already.
        """
        self.registry.add(message_type, ClassHandler(handler, self.resolver, in_thread=in_thread))

    def include(self, router: "Router") -> None:
        """Take over the handlers of `router`, which takes no more from now on, unless it is a mediator, and goes on for
        itself. Its behaviors stay around its own handlers, inside those of this one.

        Raises:
            DuplicateHandlerError: a request of `router` has a handler here already; nothing was taken over.
            TypeError: `router` is none, or this one.
        """
        if not isinstance(router, Router) or router.registry is self.registry:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"include takes another Router, got {router!r}")
        self.registry.include(router.registry, self._adopted)
        router._was_included()

    def _was_included(self) -> None:
        self.registry.close()

    def _adopted(self, handler: Handler) -> Handler:
        if isinstance(handler, ClassHandler) and handler.resolver is None:
            return ClassHandler(handler.cls, self.resolver, in_thread=handler.in_thread)
        return handler


def _classes(only: type | Iterable[type]) -> tuple[type, ...]:
    is_one = isinstance(only, type | str) or get_origin(only) is not None or not isinstance(only, Iterable)
    classes: tuple[Any, ...] = (only,) if is_one else tuple(cast("Iterable[type]", only))
    wrong = [each for each in classes if not isinstance(each, type)]
    if wrong:
        raise TypeError(f"only={wrong[0]!r} is no class: name message classes, or bases of them")
    return classes
