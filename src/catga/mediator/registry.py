"""Which handler belongs to which message, and the pipelines compiled from that."""

import inspect
import typing
import weakref
from collections.abc import Callable, Iterator, Sequence
from types import CoroutineType, FrameType, UnionType
from typing import Any, get_args, get_origin

from catga.abc import Behavior, Interceptor
from catga.errors import DuplicateHandlerError, HandlerNotFoundError, InvalidMessageError
from catga.mediator.intercept import intercepted
from catga.mediator.pipeline import (
    UNWRAPPED,
    Call,
    EventCalls,
    Handler,
    Pipeline,
    Run,
    compile_event,
    compile_request,
    enclosed,
    label,
    labels,
)
from catga.messages import is_event, is_request, wire_name
from catga.result import LOCAL, CatgaResult, Failure, ResultMetadata, Success


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

    def add(self, cls: type, handler: Handler) -> None:
        """Bind `handler` to the message class `cls`.

        Raises:
            DuplicateHandlerError: a request has one already, or another class has the same wire name.
            InvalidMessageError: `cls` is neither a request nor an event.
        """
        self._expect_room(cls)
        if is_request(cls):
            self._requests[cls] = handler
        else:
            self._events[cls] = (*self._events.get(cls, ()), handler)
        self.names[wire_name(cls)] = cls
        self._changed()

    def add_behavior(self, behavior: Behavior, only: tuple[type, ...] | None) -> None:
        """Put `behavior` inside those added before it; around messages of the classes `only`, or of all."""
        self._behaviors.append((behavior, only))
        self._changed()

    def add_interceptor(self, interceptor: Interceptor) -> None:
        """Put `interceptor` inside those added before it."""
        self.interceptors = (*self.interceptors, interceptor)
        self._changed()

    def include(self, other: "Registry", adapt: Callable[[Handler], Handler]) -> None:
        """Take over the handlers of `other`, each with its behaviors: all of them, or none. Raises like `add`."""
        for cls in other.names.values():
            self._expect_room(cls)
        for cls, handler in list(other._requests.items()):
            self.add(cls, other._enclosed(cls, adapt(handler), label(handler)))
        for cls, handlers in list(other._events.items()):
            known = self._events.get(cls, ())  # a name among all, for what two routers have may share a store
            names = labels((*known, *handlers))[len(known) :]
            for handler, name in zip(handlers, names, strict=True):
                self.add(cls, other._enclosed(cls, adapt(handler), name))

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener`, a bound method, after each registration, as long as its object lives: nodes come and go."""
        self._listeners = [known for known in self._listeners if known() is not None]
        self._listeners.append(weakref.WeakMethod(listener))

    def compile(self, cls: type, metadata: ResultMetadata) -> Pipeline | None:
        """The pipeline of a message class; None where it has no handler."""
        behaviors = self._behaviors_of(cls)
        if (handler := self._requests.get(cls)) is not None:
            return compile_request(handler, behaviors, metadata, is_plain=_returns_plain_value(handler))
        if (handlers := self._events.get(cls)) is not None:
            return compile_event(handlers, behaviors, metadata, are_plain=list(map(_returns_plain_value, handlers)))
        return None

    def requests(self) -> Iterator[tuple[type, Handler]]:
        """Each request class with its handler."""
        yield from self._requests.items()

    def not_found(self, cls: type) -> HandlerNotFoundError:
        """The error for a request nobody handles, with the handled names that look like it."""
        return handler_not_found(wire_name(cls), dict.fromkeys(self.names, ()))

    def _expect_room(self, cls: type) -> None:
        name = wire_name(cls)
        owner = self.names.get(name, cls)
        if owner is not cls:
            raise DuplicateHandlerError(f"two message classes have the wire name {name!r}: {owner!r} and {cls!r}")
        if cls in self._requests:
            raise DuplicateHandlerError(
                f"{name} is handled by {label(self._requests[cls])} already: a request has exactly one handler"
            )
        if not (is_request(cls) or is_event(cls)):
            raise InvalidMessageError(f"{cls!r} is no message: derive it from Request[R] or Event")

    def _enclosed(self, cls: type, handler: Handler, name: str) -> Handler:
        return enclosed(handler, self._behaviors_of(cls), name, is_plain=_returns_plain_value(handler))

    def _behaviors_of(self, cls: type) -> list[Behavior]:
        return [b for b, only in self._behaviors if only is None or issubclass(cls, only)]

    def _changed(self) -> None:
        self.generation += 1
        for known in list(self._listeners):
            listener = known()
            if listener is not None:
                listener()


class Runners(dict[type, Run]):
    """Message class → compiled pipeline, filled on first use: a dictionary look-up is all a call costs."""

    def __init__(self, registry: Registry, metadata: ResultMetadata = LOCAL) -> None:
        super().__init__()
        self.registry = registry
        self.metadata = metadata
        self.request_calls: dict[type, Call] = {}
        """Request class → its pipeline without the outermost part, for a caller that makes the result itself."""
        self.event_calls: dict[type, EventCalls] = {}
        """The same of events, one for each handler."""
        registry.on_change(self._forget)

    def __missing__(self, cls: type) -> Run:
        pipeline = self.registry.compile(cls, self.metadata)
        run = self._no_handler if pipeline is None else pipeline.run
        interceptors = self.registry.interceptors
        if interceptors:
            run = intercepted(interceptors, run, self.metadata, is_handled=pipeline is not None)
        if pipeline is not None:
            self[cls] = run
            if pipeline.event is not None and not interceptors:
                self.event_calls[cls] = pipeline.event
            elif pipeline.call is not None and not interceptors:
                self.request_calls[cls] = pipeline.call
        return run

    def _forget(self) -> None:
        self.clear()
        self.request_calls.clear()
        self.event_calls.clear()

    async def _no_handler(self, message: object) -> CatgaResult[Any]:
        if is_event(type(message)):
            return Success(None, self.metadata)
        if not is_request(type(message)):
            return Failure(InvalidMessageError(f"{type(message)!r} is no message: derive it from Request[R] or Event"))
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


def message_type_of(handler: Handler, frame: FrameType | None) -> type:
    """The class of the message that `handler` takes, from the annotation of its first parameter.

    Args:
        frame: where the decorator stands, whose local classes the annotation may name if the handler is of its module.
    """
    function = _function_of(handler)
    parameters = [p for p in inspect.signature(function).parameters.values() if p.name not in ("self", "cls")]
    annotation: Any = parameters[0].annotation if parameters else inspect.Parameter.empty
    if isinstance(annotation, str):
        annotation = _evaluate(annotation, function, frame)
    if not (is_request(annotation) or is_event(annotation)):
        got = "it takes no parameter" if not parameters else f"got {annotation!r}"
        if parameters and annotation is inspect.Parameter.empty:
            got = f"{parameters[0].name!r} has no annotation"
        raise InvalidMessageError(
            f"{label(handler)} must annotate its first parameter with a request or event class: {got}"
        )
    return annotation  # type: ignore[no-any-return]


def caller_frame(depth: int) -> FrameType | None:
    """The frame `depth` calls above the caller of this function; None where the interpreter has no frames."""
    frame = inspect.currentframe()
    for _ in range(depth + 1):
        frame = frame and frame.f_back
    return frame


def _function_of(handler: Any) -> Callable[..., Any]:
    """`handler` itself, or the method that an object with ``__call__`` is called through."""
    function: Callable[..., Any] = handler if inspect.isroutine(handler) else handler.__call__
    return function


def _returns_plain_value(handler: Handler) -> bool:
    """Whether the annotation says that the handler returns neither a `CatgaResult` nor something to await. What a
    decorator makes of a function may return anything."""
    if hasattr(handler, UNWRAPPED):
        return True
    return all(map(_is_plain, parts(returned(handler))))


def returned(handler: Handler) -> Any:
    """What the annotation says that the handler returns; Any where that is open."""
    function = _function_of(handler)
    if hasattr(function, "__wrapped__") or hasattr(handler, "__wrapped__"):
        return Any
    annotation: Any = getattr(function, "__annotations__", {}).get("return", Any)
    if isinstance(annotation, str):
        try:
            annotation = eval(annotation, dict(getattr(function, "__globals__", {})))  # noqa: S307 - the handler's own
        except Exception:  # noqa: BLE001 - a name for type checkers alone, or of a function's body
            return Any
    return type(None) if annotation is None else annotation


def _is_plain(part: Any) -> bool:
    """Whether `part` is a class, and none that a result or something to await may be of."""
    if not isinstance(part, type) or part is Any or hasattr(part, "__await__"):
        return False
    try:
        return not any(issubclass(kind, part) for kind in (Success, Failure, CoroutineType))
    except TypeError:  # a protocol, which only a type checker knows the classes of
        return False


def parts(annotation: Any) -> Iterator[Any]:
    """The members of a union, without what `Annotated` says of them."""
    origin = get_origin(annotation)
    if origin in (typing.Union, UnionType):
        for argument in get_args(annotation):
            yield from parts(argument)
    elif origin is typing.Annotated:
        yield from parts(get_args(annotation)[0])
    else:
        yield origin or annotation


def _evaluate(annotation: str, function: Any, frame: FrameType | None) -> Any:
    names: dict[str, Any] = getattr(inspect.unwrap(function), "__globals__", {})
    if frame is not None and frame.f_globals is names:  # elsewhere a local class would be another's namesake
        names = {**names, **frame.f_locals}
    try:
        return eval(annotation, names)  # noqa: S307 - the handler's own annotation
    except NameError as error:
        raise InvalidMessageError(
            f"the annotation {annotation!r} of {label(function)} is not defined: {error}"
        ) from error
