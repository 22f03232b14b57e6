"""`Mediator`: messages to handlers within one process."""

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from typing import Any, Generic, TypeVar, overload

from catga.abc import Behavior
from catga.mediator.bounded import run_all, run_stream
from catga.mediator.pipeline import Handler
from catga.mediator.registry import Registry, Runners, caller_frame, message_type_of
from catga.messages import Event, Request
from catga.result import CatgaResult, Failure, Success

M = TypeVar("M")
M_co = TypeVar("M_co", covariant=True)
R = TypeVar("R")
E_co = TypeVar("E_co", bound=Event, covariant=True)
H = TypeVar("H", bound=Callable[..., Any])
B = TypeVar("B", bound=Behavior)

DEFAULT_CONCURRENCY = 64


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
    def __call__(self: "Handles[Request[R]]", handler: Callable[[M_co], R]) -> Callable[[M_co], R]: ...
    @overload
    def __call__(
        self: "Handles[Event]", handler: Callable[[M_co], Awaitable[None] | None]
    ) -> Callable[[M_co], Awaitable[None] | None]: ...
    def __call__(self: "Handles[Any]", handler: Callable[[Any], Any]) -> Callable[[Any], Any]:
        self._register(handler)
        return handler


class Mediator:
    """Sends each request to its one handler and each event to all of its handlers, in this process.

    `add_cluster` gives the same handlers and the same verbs to a cluster.
    """

    def __init__(self) -> None:
        self.registry = Registry()
        """The handler table, which a `DistributedMediator` made of this mediator shares."""
        self._runners = Runners(self.registry)

    # -- registration ---------------------------------------------------------------------------------

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

    def handles(self, message_type: type[M]) -> Handles[M]:
        """Like `handler`, with the class given: parameter and return type are then checked statically."""
        return Handles(lambda handler: self.registry.add(message_type, handler))

    @overload
    def behavior(self, behavior: B, /) -> B: ...
    @overload
    def behavior(self, /, *, only: type | tuple[type, ...]) -> Callable[[B], B]: ...
    def behavior(self, behavior: B | None = None, /, *, only: type | tuple[type, ...] = ()) -> B | Callable[[B], B]:
        """Put a step around the handlers: ``async (message, call_next) -> value``. The first is outermost.

        Args:
            only: message classes (or bases of them) to which it is limited.
        """
        classes = only if isinstance(only, tuple) else (only,)

        def add(step: B) -> B:
            self.registry.add_behavior(step, classes)
            return step

        return add if behavior is None else add(behavior)

    # -- verbs ----------------------------------------------------------------------------------------

    def send(self, request: Request[R]) -> Coroutine[Any, Any, CatgaResult[R]]:
        """Run the request's handler. Await it for ``Success(value)`` or ``Failure(error)``; it raises nothing
        but `asyncio.CancelledError`.

        Failures: `HandlerNotFoundError`; `HandlerError` (the handler raised; ``__cause__`` has the original);
        any `CatgaError` that the handler or a behavior raised or returned.
        """
        return self._runners[type(request)](request)

    def publish(self, event: Event) -> Coroutine[Any, Any, CatgaResult[None]]:
        """Run every handler of the event, one after the other; with none, do nothing.

        A handler that fails does not keep the others from running. ``Failure`` has what failed.
        """
        return self._runners[type(event)](event)

    async def send_batch(
        self, requests: Iterable[Request[R]], *, concurrency: int = DEFAULT_CONCURRENCY
    ) -> list[CatgaResult[R]]:
        """Send many, at most `concurrency` at once; results in the order of the requests."""
        return await run_all(self.send, requests, concurrency)

    def send_stream(
        self,
        requests: Iterable[Request[R]] | AsyncIterable[Request[R]],
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
    ) -> AsyncIterator[CatgaResult[R]]:
        """Send as the requests come, at most `concurrency` ahead of the reader; results in their order."""
        return run_stream(self.send, requests, concurrency)

    async def publish_batch(
        self, events: Iterable[Event], *, concurrency: int = DEFAULT_CONCURRENCY
    ) -> CatgaResult[None]:
        """Publish many, at most `concurrency` at once. The first failure, if any."""
        results = await run_all(self.publish, events, concurrency)
        failed = next((result for result in results if isinstance(result, Failure)), None)
        return Success(None) if failed is None else failed
