"""Which handler belongs to which message, and the pipelines compiled from that."""

import weakref
from collections.abc import Callable, Iterator, Sequence
from types import MethodType
from typing import Any, TypeVar

from catga.abc import Behavior, Interceptor
from catga.codec import Codec
from catga.errors import ClosedError, DuplicateHandlerError, HandlerNotFoundError, refused
from catga.mediator.annotations import UNWRAPPED, Handler, label, labels
from catga.mediator.at_once import at_once
from catga.mediator.by_value import by_value
from catga.mediator.class_handler import ClassHandler
from catga.mediator.intercept import handling, intercepted, unheard
from catga.mediator.isolated import Isolation
from catga.mediator.pipeline import (
    Call,
    EventCalls,
    Pipeline,
    Run,
    admitting,
    compile_request,
    enclosed,
    event_calls,
    in_order,
    timed,
)
from catga.mediator.threads import ThreadHandler
from catga.messages import check_class, check_name, is_event, is_request, options_of, wire_name
from catga.result import LOCAL, CatgaResult, Failure, ResultMetadata, Success

T = TypeVar("T")


class Registry:
    """The handler table. Whoever shares it shares its handlers; each user compiles its own pipelines."""

    def __init__(self) -> None:
        self.names: dict[str, type] = {}
        """Wire name → message class of everything that has a handler: the allow-list of decoding."""
        self.generation = 0
        """Grows with each registration: compiled pipelines of an older one are stale."""
        self.interceptors: tuple[Interceptor, ...] = ()
        """What stands around the way of every message, the first outermost."""
        self._requests: dict[type, Handler] = {}
        self._events: dict[type, tuple[Handler, ...]] = {}
        self._behaviors: list[tuple[Behavior, tuple[type, ...] | None]] = []
        self._listeners: list[weakref.WeakMethod[Callable[[], None]]] = []
        self._is_closed = False
        self._checks: list[weakref.WeakMethod[Callable[[type], None]]] = []

    def add(self, cls: type, handler: Handler) -> None:
        """Bind `handler` to the message class `cls`, unless it is already: a router may be included on two ways.

        Raises:
            DuplicateHandlerError: a request has one already, or another class has the same wire name.
            InvalidMessageError: `cls` is neither a request nor an event, or its name is one of catga's own; the handler
                cannot be called with one; or a node runs already and the message cannot travel.
            ClosedError: this table was included in another.
        """
        check_class(cls)
        if self._has(cls, handler):
            return
        self._expect_room(cls)
        if is_request(cls):
            self._requests[cls] = handler
        else:
            self._events[cls] = (*self._events.get(cls, ()), handler)
        self.names[wire_name(cls)] = cls
        self._changed()

    def add_behavior(self, behavior: Behavior, only: tuple[type, ...] | None) -> None:
        """Put `behavior` inside those added before it; around messages of the classes `only`, or of all.
        Raises `ClosedError` like `add`."""
        self._expect_open()
        self._behaviors.append((behavior, only))
        self._changed()

    def add_interceptor(self, interceptor: Interceptor) -> None:
        """Put `interceptor` inside those added before it."""
        self.interceptors = (*self.interceptors, interceptor)
        self._changed()

    def include(self, other: "Registry", adapt: Callable[[Handler], Handler]) -> None:
        """Take over the handlers of `other`, each with its behaviors: all of them, or none. Raises like `add`."""
        for cls in other.names.values():
            if not all(self._has(cls, handler) for handler in other._handlers_of(cls)):
                self._expect_room(cls)
        for cls, handler in list(other._requests.items()):
            self.add(cls, other._enclosed(cls, adapt(handler), label(handler)))
        for cls, handlers in list(other._events.items()):
            known = self._events.get(cls, ())  # a name among all, for what two routers have may share a store
            names = labels((*known, *handlers))[len(known) :]
            for handler, name in zip(handlers, names, strict=True):
                self.add(cls, other._enclosed(cls, adapt(handler), name))

    def close(self) -> None:
        """Take no more: others have taken over what is here, and would miss it."""
        self._is_closed = True

    def on_change(self, listener: Callable[[], None], *, check: Callable[[type], None] | None = None) -> None:
        """Call `listener`, a bound method, after each registration, as long as its object lives: nodes come and go.

        Args:
            check: another one, called before with the message class; what it raises refuses the registration.
        """
        self._listeners = [known for known in self._listeners if known() is not None]
        self._checks = [known for known in self._checks if known() is not None]
        self._listeners.append(weakref.WeakMethod(listener))
        if check is not None:
            self._checks.append(weakref.WeakMethod(check))

    def compile(self, cls: type, metadata: ResultMetadata) -> Pipeline | None:
        """The pipeline of a message class; None where it has no handler."""
        behaviors = self._behaviors_of(cls)
        if (handler := self._requests.get(cls)) is not None:
            return compile_request(handler, behaviors, metadata)
        if (calls := self.event_calls(cls)) is None:
            return None
        is_concurrent = options_of(cls).concurrent and len(calls) > 1
        run = at_once(calls, metadata) if is_concurrent else in_order(calls, metadata)
        return Pipeline(admitting(calls, run, metadata), event=None if is_concurrent or calls.limits else calls)

    def event_calls(self, cls: type) -> EventCalls | None:
        """The paths of an event's handlers; None where it has no handler."""
        handlers = self._events.get(cls)
        return None if handlers is None else event_calls(handlers, self._behaviors_of(cls))

    def requests(self) -> Iterator[tuple[type, Handler]]:
        """Each request class with its handler."""
        yield from self._requests.items()

    def handlers(self) -> Iterator[Handler]:
        """Every handler, also those that are one for several classes."""
        yield from list(self._requests.values())
        for handlers in list(self._events.values()):
            yield from handlers

    def not_found(self, cls: type) -> HandlerNotFoundError:
        """The error for a request nobody handles, with the handled names that look like it."""
        owner = self.names.get(wire_name(cls))
        if owner is not None:
            text = f"{wire_name(cls)} is defined twice, as {owner!r} and as {cls!r}, and the first has the handler"
            return HandlerNotFoundError(f"{text}: import it from one module, and register anew after a reload")
        return handler_not_found(wire_name(cls), dict.fromkeys(self.names, ()))

    def _handlers_of(self, cls: type) -> tuple[Handler, ...]:
        return (self._requests[cls],) if cls in self._requests else self._events.get(cls, ())

    def _has(self, cls: type, handler: Handler) -> bool:
        return any(_is_same(_origin(known), _origin(handler)) for known in self._handlers_of(cls))

    def _expect_room(self, cls: type) -> None:
        """Raise unless a handler for `cls` can be added."""
        self._expect_open()
        name = wire_name(cls)
        owner = self.names.get(name, cls)
        if owner is not cls:
            raise DuplicateHandlerError(f"two message classes have the wire name {name!r}: {owner!r} and {cls!r}")
        if cls in self._requests:
            raise DuplicateHandlerError(
                f"{name} is handled by {label(self._requests[cls])} already: a request has exactly one handler"
            )
        check_name(cls)
        for known in self._checks:
            if (check := known()) is not None:
                check(cls)

    def _expect_open(self) -> None:
        if self._is_closed:
            raise ClosedError("this router was included already, and what it gets now would be lost: include it later")

    def _enclosed(self, cls: type, handler: Handler, name: str) -> Handler:
        return enclosed(handler, self._behaviors_of(cls), name, of_event=is_event(cls))

    def _behaviors_of(self, cls: type) -> list[Behavior]:
        return [b for b, only in self._behaviors if only is None or issubclass(cls, only)]

    def _changed(self) -> None:
        self.generation += 1
        for known in list(self._listeners):
            listener = known()
            if listener is not None:
                listener()


def _origin(handler: Any) -> object:
    """What was registered first, without the behaviors of the routers on its way."""
    while hasattr(handler, UNWRAPPED):
        handler = handler.__wrapped__
    return handler


def _as_it_is(run: T) -> T:
    return run


def _is_same(one: object, other: object) -> bool:
    """Whether two handlers are one: objects that are only equal are not."""
    if isinstance(one, ClassHandler) and isinstance(other, ClassHandler):
        return one.cls is other.cls and one.resolver is other.resolver and one.in_thread is other.in_thread
    if isinstance(one, ThreadHandler) and isinstance(other, ThreadHandler):
        return _is_same(one.function, other.function)
    return one is other or (isinstance(one, MethodType) and isinstance(other, MethodType) and one == other)


class Runners(dict[type, Run]):
    """Message class → compiled pipeline, filled on first use: a dictionary look-up is all a call costs."""

    def __init__(self, registry: Registry, metadata: ResultMetadata = LOCAL, *, strict: bool = False) -> None:
        super().__init__()
        self._strict = strict
        self._isolation = Isolation() if strict else None
        self._untimed: dict[type, Run] = {}  # of what is handled, without timeout and interceptors
        self.registry = registry
        self.metadata = metadata
        self.request_calls: dict[type, Call] = {}
        """Request class → its pipeline without the outermost part, for a caller that makes the result itself."""
        self.event_calls: dict[type, EventCalls] = {}
        """The same of events, one for each handler."""
        registry.on_change(self.forget, check=self._check)

    def __missing__(self, cls: type) -> Run:
        pipeline = self._pipeline(cls)
        timeout = options_of(cls).timeout if is_request(cls) or is_event(cls) else None
        run = self._run(cls, timeout)
        if pipeline is not None:
            self[cls] = run
            if self.registry.interceptors or self._strict or timeout is not None:
                return run
            if pipeline.event is not None:
                self.event_calls[cls] = pipeline.event
            elif pipeline.call is not None:
                self.request_calls[cls] = pipeline.call
        return run

    def within(self, cls: type, timeout: float) -> Run:
        """The pipeline of `cls` for a call that has `timeout` seconds, whatever its class says."""
        if cls not in self._untimed:
            self._pipeline(cls)
        return self._run(cls, timeout)

    def _pipeline(self, cls: type) -> Pipeline | None:
        pipeline = self.registry.compile(cls, self.metadata)
        if pipeline is not None:
            self._untimed[cls] = by_value(pipeline.run, cls, self.metadata) if self._strict else pipeline.run
        return pipeline

    def _run(self, cls: type, timeout: float | None) -> Run:
        """What is handled, and what is not, with what stands around it."""
        run = self._untimed.get(cls, self._no_handler)
        if timeout is not None:
            run = timed(run, cls, timeout, self.metadata)
        interceptors, apart = self.registry.interceptors, self._isolation or _as_it_is
        if not interceptors:
            return apart(run)
        if cls not in self._untimed:
            return intercepted(interceptors, unheard(run))
        return intercepted(interceptors, apart(handling(interceptors, run, self.metadata)))

    def _check(self, cls: type) -> None:
        if self._strict:
            Codec(cls)

    def forget(self) -> None:
        """Compile anew what is called next."""
        self.clear()
        self._untimed.clear()
        self.request_calls.clear()
        self.event_calls.clear()

    async def _no_handler(self, message: object) -> CatgaResult[Any]:
        if is_event(type(message)):
            if wire_name(type(message)) in self.registry.names:  # of another class, which a node would take it for
                return Failure(self.registry.not_found(type(message)), self.metadata)
            return Success(None, self.metadata)
        if not is_request(type(message)):
            return Failure(refused(f"{type(message)!r} is no message: derive it from Request[R] or Event"))
        return Failure(self.registry.not_found(type(message)), self.metadata)


def handler_not_found(name: str, known: dict[str, Sequence[str]]) -> HandlerNotFoundError:
    """The error for a message nobody handles.

    Args:
        name: its wire name.
        known: wire names that are handled, each with the nodes that handle it.
    """
    import difflib  # only a mistake needs it

    short = name.rpartition(".")[2]
    by_short = {known_name.rpartition(".")[2]: known_name for known_name in known}
    near = [by_short[s] for s in difflib.get_close_matches(short, by_short, n=3)]
    text = f"no handler for {name}"
    if near:
        text += f"; did you mean {', '.join(near)}?"
    if known:
        listed = [f"{n} ({', '.join(nodes)})" if nodes else n for n, nodes in sorted(known.items())[:20]]
        text += f" Handled: {', '.join(listed)}" if near else f"; handled: {', '.join(listed)}"
    else:
        text += "; nothing is handled at all: was the module with the handlers imported?"
    details = {"name": name, "near": near, "handled": {n: list(nodes) for n, nodes in known.items()}}
    return HandlerNotFoundError(text, details=details)
