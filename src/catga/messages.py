"""What travels: `Request[R]` and `Event` markers, delivery options, and wire names.

A message is any class msgspec can encode (a frozen dataclass, a `msgspec.Struct`, an attrs class) or a
pydantic model, with one of the two markers among its bases.
"""

import sys
from collections.abc import Callable
from pathlib import PurePath
from types import FunctionType
from typing import Any, Generic, TypeVar, get_args, get_origin, overload

import msgspec

from catga.errors import InvalidMessageError, refused
from catga.hints import has_field, resolved
from catga.seconds import is_number

R_co = TypeVar("R_co", covariant=True)
M = TypeVar("M")


class Request(Generic[R_co]):
    """A message with exactly one handler, answered with an ``R``."""

    __slots__ = ()


class Event:
    """A message with any number of handlers and no answer."""

    __slots__ = ()


Key = str | Callable[[Any], object]


class MessageOptions(msgspec.Struct, frozen=True):
    """How a message is delivered; see `message`."""

    idempotent: bool = False
    key: Key | None = None
    timeout: float | None = None
    name: str | None = None
    concurrent: bool = False


_OPTIONS = "__catga_options__"
_DEFAULTS = MessageOptions()
MAX_NAME = 512
"""Characters of a wire name."""
_OWN = "catga."


@overload
def message(cls: type[M], /) -> type[M]: ...
@overload
def message(
    *,
    idempotent: bool = False,
    key: Key | None = None,
    timeout: float | None = None,
    name: str | None = None,
    concurrent: bool = False,
) -> Callable[[type[M]], type[M]]: ...
def message(
    cls: type[M] | None = None,
    /,
    *,
    idempotent: bool = False,
    key: Key | None = None,
    timeout: float | None = None,
    name: str | None = None,
    concurrent: bool = False,
) -> type[M] | Callable[[type[M]], type[M]]:
    """Give a message class its delivery options. Subclasses inherit all but ``name``.

    Args:
        idempotent: safe to run twice, so it may be tried again after a failure that leaves its
            execution in doubt.
        key: what consistent hashing uses: a field's name, or a function of the message.
        timeout: seconds, over the cluster's ``request_timeout``.
        name: the wire name, by default ``module.Qualname``.
        concurrent: the handlers of an event run at the same time, not one after the other.

    Raises:
        InvalidMessageError: `timeout` is not positive, `key` names no field of the class, `name` is one of
            catga's own, or a request is to be `concurrent`.
        TypeError: an option is given without its name.
    """
    if timeout is not None and not (is_number(timeout) and timeout > 0):
        raise InvalidMessageError(f"timeout must be a positive number of seconds, got {timeout!r}")
    if not (key is None or isinstance(key, str) or callable(key)):  # pyright: ignore[reportUnnecessaryComparison]
        raise InvalidMessageError(f"key must be a field's name, or a function of the message, got {key!r}")
    if not (cls is None or isinstance(cls, type)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"message takes options by name, such as @message(name='shop.Buy'), got {cls!r}")

    def decorate(cls: type[M]) -> type[M]:
        if isinstance(key, str) and not has_field(cls, key):
            raise InvalidMessageError(f"key={key!r} names no field of {cls.__qualname__}")
        if concurrent and is_request(cls):
            text = "concurrent=True is for events, whose handlers it runs at the same time; a request has one handler"
            raise InvalidMessageError(f"{cls.__qualname__} is a request: {text}")
        setattr(cls, _OPTIONS, MessageOptions(idempotent, key, timeout, name, concurrent))
        check_name(cls)
        return cls

    return decorate if cls is None else decorate(cls)


def options_of(cls: type) -> MessageOptions:
    """The options of a message class: its own, or those it inherits (without their name)."""
    options: MessageOptions = getattr(cls, _OPTIONS, _DEFAULTS)
    if options.name is not None and _OPTIONS not in cls.__dict__:
        return msgspec.structs.replace(options, name=None)
    return options


def wire_name(cls: type) -> str:
    """The name a message class has on the bus, the same in every process.

    ``__main__`` is mapped to the module name of the script, so that a worker run as a script and a caller
    that imports it agree.
    """
    name = options_of(cls).name
    return f"{module_of(cls)}.{cls.__qualname__}" if name is None else name


def check_name(cls: type) -> None:
    """Raise InvalidMessageError if the wire name of a class cannot travel, or is one of catga's own, and the class is
    not."""
    name = wire_name(cls)
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or not name.isprintable():
        raise refused(f"the wire name {name!r:.80} of {cls!r} must be 1 to {MAX_NAME} printable characters")
    if name.startswith(_OWN) and not module_of(cls).startswith(_OWN):
        raise refused(
            f"the wire name {name!r} of {cls!r} is catga's own, like all that begin with {_OWN!r}: "
            f'give it another, e.g. @message(name="shop.{cls.__name__}")'
        )


def check_class(cls: Any) -> None:
    """Raise InvalidMessageError unless `cls` is a class of messages that may have handlers."""
    if not isinstance(cls, type):
        hint = f"name its class, {cls.__class__.__qualname__}" if _is_message(cls.__class__) else "name a message class"
        if isinstance(cls, FunctionType):
            hint = "write @app.handles(Message), or @app.handler, which reads the annotation"
        raise InvalidMessageError(f"{cls!r:.200} is no message class: {hint}")
    if cls in (Request, Event) or not _is_message(cls):
        raise InvalidMessageError(f"{cls!r} is no message: derive a class from Request[R] or Event")
    if is_request(cls) and is_event(cls):
        raise InvalidMessageError(f"{cls!r} is a request and an event: derive it from one of them")
    if options_of(cls).name is not None and wire_name(cls).startswith(_OWN) and module_of(cls).startswith(_OWN):
        raise InvalidMessageError(f"{cls!r} is built in: each node answers it itself")


def _is_message(cls: Any) -> bool:
    return is_request(cls) or is_event(cls)


def module_of(cls: Any) -> str:
    """Return the name of the module of a class or a function, the same in every process; see `wire_name`."""
    return _main_module() if cls.__module__ == "__main__" else cls.__module__


def _main_module() -> str:
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None:  # python -m package.module
        return str(spec.name).removesuffix(".__main__")
    path = getattr(main, "__file__", None)
    return PurePath(path).stem if path else "__main__"


def key_of(message: object) -> object:
    """The routing key of a message.

    Raises:
        InvalidMessageError: its class declares no key, or the key function failed.
    """
    cls = type(message)
    key = options_of(cls).key
    if key is None:
        raise refused(
            f"{cls.__qualname__} has no key: declare one with @message(key=...) to route it by consistent hashing"
        )
    try:
        return getattr(message, key) if isinstance(key, str) else key(message)
    except Exception as error:
        raise refused(f"the key of {cls.__qualname__} failed: {error!r}") from error


def is_request(cls: type) -> bool:
    """Whether `cls` is a request type."""
    return isinstance(cls, type) and issubclass(cls, Request)


def is_event(cls: type) -> bool:
    """Whether `cls` is an event type."""
    return isinstance(cls, type) and issubclass(cls, Event)


def no_message(value: object, wanted: str) -> InvalidMessageError:
    """The error for a `value` that is no `wanted` (``"request"`` or ``"event"``), with the likely mistake."""
    cls = type(value)
    text = f"{value!r:.80} is no {wanted}: derive its class from {'Request[R]' if wanted == 'request' else 'Event'}"
    if isinstance(value, type) and (is_request(value) or is_event(value)):
        text = f"{value.__qualname__} is the class: send an instance, {value.__qualname__}(...)"
    elif is_event(cls):
        text = f"{cls.__qualname__} is an event: publish it"
    elif is_request(cls):
        text = f"{cls.__qualname__} is a request: send it"
    return refused(text)


def response_type(cls: type) -> Any:
    """The ``R`` of a request class that derives from ``Request[R]``, however far up.

    Raises:
        InvalidMessageError: `cls` derives from a bare ``Request``, or R cannot be resolved.
    """
    origin, args = _parts(cls)
    found = _response_argument(origin, dict(zip(_parameters(origin), args, strict=False)))
    if found is None or isinstance(found, TypeVar):
        raise refused(
            f"{cls.__qualname__} does not say what it is answered with: derive from Request[R], e.g. Request[None]"
        )
    return found


def _response_argument(cls: type, bound: dict[Any, Any]) -> Any:
    """R as `cls` binds it, with the type variables of its generic bases replaced on the way up; else what is there
    of it, a type variable or None."""
    found: Any = None
    for base in cls.__dict__.get("__orig_bases__", cls.__bases__):  # not inherited: those are another class's bases
        origin, said = _parts(base)
        args = tuple(_bind(_resolved(arg, cls), bound) for arg in said)
        if origin is Request:
            found = args[0] if args else found
        elif is_request(origin):
            parameters = dict(zip(_parameters(origin), args, strict=False))
            found = _response_argument(origin, parameters) or found
        if not (found is None or isinstance(found, TypeVar)):
            return found
    return found


def _parts(cls: Any) -> tuple[Any, tuple[Any, ...]]:
    """A generic class and its arguments. Of a pydantic model they make a class, which knows both."""
    model: dict[str, Any] = getattr(cls, "__dict__", {}).get("__pydantic_generic_metadata__", {})
    if model.get("origin") is not None:
        return model["origin"], model["args"]
    return get_origin(cls) or cls, get_args(cls)


def _parameters(cls: Any) -> tuple[Any, ...]:
    model: dict[str, Any] = cls.__dict__.get("__pydantic_generic_metadata__", {})
    return tuple(model["parameters"] if model.get("parameters") else getattr(cls, "__parameters__", ()))


def _bind(arg: Any, bound: dict[Any, Any]) -> Any:
    """`arg` with its type variables replaced, also those inside of it: ``list[T]``."""
    parameters = getattr(arg, "__parameters__", ())
    if parameters and not isinstance(arg, type):
        return arg[tuple(bound.get(parameter, parameter) for parameter in parameters)]
    return bound.get(arg, arg) if isinstance(arg, TypeVar) else arg


def _resolved(arg: Any, cls: type) -> Any:
    """`arg`, which the class statement of `cls` names, with what it says as text looked up in the module of `cls`."""
    if isinstance(arg, type | TypeVar) and not get_args(arg):
        return arg
    try:
        return resolved(arg, cls.__module__, {cls.__name__: cls})
    except Exception as error:
        text = getattr(arg, "__forward_arg__", arg)
        raise refused(
            f"{text!r}, with which {cls.__qualname__} is answered, is not defined in {cls.__module__}: {error}"
        ) from error
