"""What a function says of itself: its name, the message that it takes, what it returns."""

import dis
import functools
import inspect
import typing
from collections.abc import Callable, Iterator, Sequence
from types import CoroutineType, FrameType, UnionType
from typing import Any, TypeAlias, get_args, get_origin

from catga.errors import InvalidMessageError
from catga.hints import annotations_of, signature_of, text_of
from catga.messages import is_event, is_request, module_of
from catga.result import Failure, Success

Handler: TypeAlias = Callable[[Any], Any]

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_RESULTS = frozenset((Success.__name__, Failure.__name__))

UNWRAPPED = "__catga_unwrapped__"
"""What marks a handler whose results and awaitables are unwrapped already."""


def label(handler: Any) -> str:
    """A handler's name, ``module.qualname``, the same in every process: that of the function inside of decorators
    and `functools.partial`, or that of an object's class."""
    function: Any = inspect.unwrap(handler)
    while isinstance(function, functools.partial):
        function = inspect.unwrap(function.func)
    if not hasattr(function, "__qualname__"):
        function = function.__class__
    return f"{module_of(function)}.{function.__qualname__}"


def labels(handlers: Sequence[Handler]) -> list[str]:
    """The names of an event's handlers; those that share one are numbered."""
    names = [label(handler) for handler in handlers]
    return [f"{name}#{names[:i].count(name) + 1}" if names.count(name) > 1 else name for i, name in enumerate(names)]


def is_coroutine_function(handler: Handler) -> bool:
    """Whether calling `handler` gives a coroutine: also for an object with an ``async def __call__``."""
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(type(handler).__call__)


def message_type_of(handler: Handler, frame: FrameType | None) -> type:
    """The class of the message that `handler` takes, from the annotation of its first parameter.

    Args:
        frame: where the decorator stands, whose local classes the annotation may name if the handler is of its module.
    """
    parameter = parameter_of(handler)
    annotation: Any = inspect.Parameter.empty if parameter is None else parameter.annotation
    if (text := text_of(annotation)) is not None:
        annotation = _evaluate(text, _function_of(handler), frame)
    if not (is_request(annotation) or is_event(annotation)):
        has_none = annotation is inspect.Parameter.empty
        got = "it has no annotation" if has_none else f"got {annotation!r}"
        raise InvalidMessageError(f"{label(handler)} must annotate its parameter with a request or event class: {got}")
    return annotation  # type: ignore[no-any-return]


def parameter_of(handler: Handler) -> inspect.Parameter | None:
    """Return the parameter that takes the message; None if the signature does not tell.

    Raises:
        InvalidMessageError: it cannot be called with a message alone, or does not return its value.
    """
    function = _called_of(handler)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise InvalidMessageError(f"{label(handler)} has a `yield`: a handler returns its value")
    try:
        called = list(signature_of(function, follow_wrapped=False).parameters.values())
        said = [p for p in signature_of(function).parameters.values() if p.kind in _POSITIONAL]
    except ValueError:  # a function of C
        return None
    taken = [p for p in called if p.kind in _POSITIONAL]
    needed = [p for p in called if p not in taken[:1] and p.kind not in _VARIABLE and _is_needed(p)]
    if not needed and (taken or any(p.kind is p.VAR_POSITIONAL for p in called)):
        return said[0] if said else None
    what, hint = "parameters besides the message", ": bind others with functools.partial, or write a handler class"
    if not taken:
        what, hint = "no parameter", " for the message"
    elif taken[0].name in ("self", "cls"):
        hint = ": it is a method, so register a bound one, or the class by add_handler"
    raise InvalidMessageError(f"{label(handler)} has {what}{hint}")


def check_behavior(step: Any) -> None:
    """Raise TypeError unless `step` can be called as a behavior."""
    if isinstance(step, type):
        hint = "limit a behavior by only=" if is_request(step) or is_event(step) else "give an object that it makes"
        raise TypeError(f"{step!r} is no behavior but a class: {hint}")
    if not callable(step):
        raise TypeError(f"{step!r} is no behavior: it cannot be called with (message, call_next)")
    function = _function_of(step)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"{label(step)} is no behavior: it has a `yield`, and should return what it is to return")
    try:
        signature_of(function, follow_wrapped=False).bind(None, None)
    except TypeError as error:
        raise TypeError(f"{label(step)} is no behavior, as it does not take (message, call_next): {error}") from None
    except ValueError:  # a function of C
        pass


def _called_of(handler: Any) -> Callable[..., Any]:
    """What runs when `handler` is called: for a class, that is the class itself."""
    if not callable(handler):
        raise InvalidMessageError(f"{handler!r} is no handler: it cannot be called with a message")
    if not isinstance(handler, type):
        return _function_of(handler)
    if hasattr(handler, "handle"):
        raise InvalidMessageError(
            f"{label(handler)} is a class: register it by add_handler(Message, {handler.__name__})"
        )
    return handler


def _is_needed(parameter: inspect.Parameter) -> bool:
    """Whether nobody gives it a value: a framework's ``Depends(...)`` is none either."""
    return parameter.default is parameter.empty or type(parameter.default).__name__ == "Depends"


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


def returns_plain_value(handler: Handler) -> bool:
    """Whether the handler returns neither a `CatgaResult` nor something to await: its annotation says so, and its code
    calls nothing that could have returned one. What a decorator makes of a function may return anything."""
    if hasattr(handler, UNWRAPPED):
        return True
    return says_plain_value(handler) and not _calls_anything(_function_of(handler))


def says_plain_value(handler: Handler) -> bool:
    """Whether the annotation says that the handler returns neither a `CatgaResult` nor something to await."""
    return all(map(_is_plain, parts(returned(handler)))) and not _names_results(_function_of(handler))


def _calls_anything(function: Any) -> bool:
    code = getattr(function, "__code__", None)
    names = (each.opname for each in dis.get_instructions(code)) if code is not None else ("CALL",)
    return any(name.startswith("CALL") and "INTRINSIC" not in name for name in names)


def _names_results(function: Any) -> bool:
    """Whether the code names `Success` or `Failure`: then it may return one, whatever its annotation says."""
    code = getattr(function, "__code__", None)
    names = {*code.co_names, *code.co_freevars} if code is not None else ()
    known: dict[str, Any] = getattr(function, "__globals__", {})
    return any(name in _RESULTS or known.get(name) in (Success, Failure) for name in names)


def returned(handler: Handler) -> Any:
    """What the annotation says that the handler returns; Any where that is open."""
    function = _function_of(handler)
    if hasattr(function, "__wrapped__") or hasattr(handler, "__wrapped__"):
        return Any
    annotation: Any = annotations_of(function).get("return", Any)
    if (text := text_of(annotation)) is not None:
        try:
            annotation = eval(text, dict(getattr(function, "__globals__", {})))  # noqa: S307 - the handler's own
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
