"""The path of one message through behaviors and handler, put together once, at its first use.

Behaviors and handlers deal in plain values and exceptions. The result object is made here, at the very
outside, so the whole cost of a pipeline with nothing in it is one coroutine and one `Success`.
"""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, suppress
from types import AsyncGeneratorType, FunctionType, GeneratorType, MethodType
from typing import Any, NamedTuple, TypeAlias, TypeGuard

from catga.abc import AdmissionBehavior, Behavior, HandlerBehavior, NotReachedBehavior
from catga.errors import CatgaError, CatgaTimeoutError, HandlerError, as_answer, passed_on, settle_doubt, with_doubt
from catga.mediator.annotations import (
    UNWRAPPED,
    Handler,
    is_coroutine_function,
    label,
    labels,
    returns_plain_value,
    says_plain_value,
)
from catga.mediator.settling import settle
from catga.messages import options_of, wire_name
from catga.result import CatgaResult, Failure, ResultMetadata, Success

logger = logging.getLogger("catga.mediator")
handlers = logging.getLogger("catga.handlers")

Call: TypeAlias = Callable[[Any], Awaitable[Any]]
Run: TypeAlias = Callable[[Any], Coroutine[Any, Any, CatgaResult[Any]]]
Direct: TypeAlias = Callable[[Any], CatgaResult[Any]]

_LIMITS = "__catga_limits__"
"""What an enclosed handler of an event keeps: the behaviors that its event passes once."""
_TOLD = "__catga_told__"
"""What an enclosed handler keeps: the behaviors around it that are told if it is not reached."""
_NOT_REACHED = "__catga_not_reached__"
"""What a cancellation carries: the names of the handlers that were not reached."""
_Told: TypeAlias = "tuple[tuple[NotReachedBehavior, str], ...]"


class EventCalls(tuple[Call, ...]):
    """The paths of an event's handlers, in their order, each without the outermost part: it returns the plain value,
    or raises. A tuple, as that is what is iterated over at no cost. No two are the same object."""

    names: Sequence[str]
    told: Sequence[_Told]
    limits: Sequence[AdmissionBehavior]
    """What the event passes once, the outermost first."""

    def path(self, behavior: NotReachedBehavior, name: str) -> "EventCalls | None":
        """Return that of the handler which `behavior` stands around and knows as `name`; None if there is none."""
        for call, own, told in zip(self, self.names, self.told, strict=True):
            if any(each is behavior and known == name for each, known in told):
                path = EventCalls((call,))
                path.names, path.told, path.limits = (own,), (told,), self.limits
                return path
        return None

    async def failed(self, event: Any, call: Call, error: BaseException) -> CatgaError:
        """Return what `call`, one of these, raised as an error of ours.

        Raises:
            asyncio.CancelledError: this task was cancelled, so that the calls behind it are not reached: `left_out`
                names their handlers.
            SystemExit, KeyboardInterrupt, GeneratorExit: a call raised it.
        """
        try:
            return failed(error, event)
        except asyncio.CancelledError as cancelled:
            await self.not_reached(event, cancelled, next(i for i, each in enumerate(self, 1) if each is call))
            raise

    async def not_reached(self, event: Any, cancelled: asyncio.CancelledError, begun: int) -> None:
        """Note in `cancelled` the names of the handlers behind the first `begun`; tell the behaviors around them."""
        setattr(cancelled, _NOT_REACHED, tuple(self.names[begun:]))
        if any(self.told[begun:]):
            await settle(_tell(event, [pair for told in self.told[begun:] for pair in told]))


def left_out(cancelled: BaseException | None) -> dict[str, Any]:
    """Details of the error that takes the place of a cancellation: which handlers of the event were not reached."""
    names: tuple[str, ...] = getattr(cancelled, _NOT_REACHED, ())
    return {"not_reached": list(names)} if names else {}


async def _tell(event: Any, told: Sequence[tuple[NotReachedBehavior, str]]) -> None:
    results = await asyncio.gather(
        *(behavior.not_reached(event, name) for behavior, name in told), return_exceptions=True
    )
    for error in results:
        if isinstance(error, BaseException):
            logger.error("a behavior failed on a handler that was not reached", exc_info=error)


def _told(handler: Handler, behaviors: Sequence[Behavior], name: str) -> _Told:
    """The behaviors around `handler` that are told if it is not reached, each with the handler's name for it."""
    own = tuple((b, name) for b in behaviors if isinstance(b, NotReachedBehavior))
    return (*own, *getattr(handler, _TOLD, ()))


class Pipeline(NamedTuple):
    """A compiled path.

    ``direct`` runs it without a coroutine, where the handler is a plain function with nothing around it.
    ``call`` is a request's path without its outermost part, which returns the plain value, or raises; ``event`` has
    the same for each handler of an event.
    """

    run: Run
    direct: Direct | None = None
    call: Call | None = None
    event: EventCalls | None = None


def compile_request(handler: Handler, behaviors: Sequence[Behavior], metadata: ResultMetadata) -> Pipeline:
    """The pipeline of a request."""
    if not is_coroutine_function(handler) and not behaviors and says_plain_value(handler):
        direct = _direct(handler, metadata)
        return Pipeline(_asynchronous(direct), direct)
    call = around(_calling(handler), bound(behaviors, label(handler)))
    return Pipeline(_outermost(call, metadata), None, call)


def event_calls(handlers: Sequence[Handler], behaviors: Sequence[Behavior]) -> EventCalls:
    """The paths of an event's handlers through `behaviors`, which stand around each of them, but for its limits."""
    names = labels(handlers)
    steps = _steps(behaviors)
    made = EventCalls(
        around(_calling(handler, _running), bound(steps, name)) for handler, name in zip(handlers, names, strict=True)
    )
    made.names = names
    made.told = [_told(handler, behaviors, name) for handler, name in zip(handlers, names, strict=True)]
    inner = [limit for handler in handlers for limit in getattr(handler, _LIMITS, ())]
    made.limits = list({id(limit): limit for limit in (*_limits(behaviors), *inner)}.values())
    return made


def in_order(calls: EventCalls, metadata: ResultMetadata) -> Run:
    """Return what runs every handler of an event, one after the other, whatever the others do."""
    done: Success[None] = Success(None, metadata)

    async def run(event: Any) -> CatgaResult[None]:
        errors: list[CatgaError] | None = None
        for call in calls:
            try:
                await call(event)
            except BaseException as error:  # noqa: BLE001 - the border around a user's handler
                if errors is None:
                    errors = []
                errors.append(await calls.failed(event, call, error))
        return done if errors is None else Failure(combined(errors), metadata)

    return run


def admitting(calls: EventCalls, run: Run, metadata: ResultMetadata) -> Run:
    """Return `run`, which runs `calls`, behind the limits that the event passes once."""
    if not calls.limits:
        return run

    async def admitted(event: Any) -> CatgaResult[None]:
        has_passed = False
        try:
            async with AsyncExitStack() as stack:
                for limit in calls.limits:
                    await stack.enter_async_context(limit.admission(event))
                has_passed = True
                return await run(event)
        except BaseException as error:  # noqa: BLE001 - the border around a user's limit
            if isinstance(error, asyncio.CancelledError) and not has_passed:
                await calls.not_reached(event, error, 0)
            return Failure(failed(error, event), metadata)

    return admitted


def _steps(behaviors: Sequence[Behavior]) -> list[Behavior]:
    """Those that stand around each handler of an event."""
    return [behavior for behavior in behaviors if not isinstance(behavior, AdmissionBehavior)]


def _limits(behaviors: Sequence[Behavior]) -> list[AdmissionBehavior]:
    """Those that an event passes once."""
    return [behavior for behavior in behaviors if isinstance(behavior, AdmissionBehavior)]


def timed(run: Run, cls: type, timeout: float, metadata: ResultMetadata) -> Run:
    """`run`, for messages of `cls`, cancelled after `timeout` seconds: then it is a `CatgaTimeoutError`, and may have
    been executed."""

    name, idempotent = wire_name(cls), options_of(cls).idempotent

    def too_late(cancelled: BaseException | None) -> Failure:
        return Failure(settle_doubt(took_too_long(name, timeout, cancelled), idempotent=idempotent), metadata)

    async def limited(message: Any) -> CatgaResult[Any]:
        try:
            async with asyncio.timeout(timeout) as limit:
                result = await run(message)
        except TimeoutError as late:  # no handler's: those are failures by now
            return too_late(late.__cause__)
        if limit.expired():  # a handler ended in its own way when it was cancelled: too late all the same
            return too_late(None)
        return result

    return limited


def took_too_long(name: str, timeout: float, cancelled: BaseException | None) -> CatgaTimeoutError:
    """The error of a message whose handlers were cancelled by its deadline."""
    return CatgaTimeoutError(f"{name} took longer than {timeout:g} s", details=left_out(cancelled))


def around(call: Call, behaviors: Sequence[Behavior]) -> Call:
    """`call` inside `behaviors`, the first of them outermost."""
    for behavior in reversed(behaviors):
        call = _step(behavior, call)
    return call


def bound(behaviors: Sequence[Behavior], name: str) -> list[Behavior]:
    """`behaviors` for the handler called `name`."""
    return [b.bound_to(name) if isinstance(b, HandlerBehavior) else b for b in behaviors]


def enclosed(handler: Handler, behaviors: Sequence[Behavior], name: str, *, of_event: bool) -> Handler:
    """`handler`, which is called `name`, with `behaviors` of its own, as one handler."""
    if not behaviors:
        return handler
    steps = _steps(behaviors) if of_event else behaviors
    call = around(_calling(handler, _running if of_event else None), bound(steps, name))

    @functools.wraps(handler)
    async def run(message: Any) -> Any:
        return await call(message)

    setattr(run, UNWRAPPED, True)
    setattr(run, _TOLD, _told(handler, behaviors, name))
    setattr(run, _LIMITS, (*(_limits(behaviors) if of_event else ()), *getattr(handler, _LIMITS, ())))
    return run


def _step(behavior: Behavior, call_next: Call) -> Call:
    """`behavior` with its second argument filled in: as a default value where it is a plain function or
    method, for that costs no frame a call. Its code is a copy, which the interpreter specializes for what it calls."""
    method: Any = behavior if isinstance(behavior, FunctionType | MethodType) else behavior.__call__
    is_method = isinstance(method, MethodType)
    function: Any = method.__func__ if is_method else method
    if not isinstance(function, FunctionType) or not _takes(function, 3 if is_method else 2):
        return _unwrapping(lambda message: behavior(message, call_next))
    filled = FunctionType(
        function.__code__.replace(), function.__globals__, function.__name__, (call_next,), function.__closure__
    )
    filled.__kwdefaults__ = function.__kwdefaults__
    step: Call = MethodType(filled, method.__self__) if is_method else filled
    return step if uses_nothing_else(function) or returns_plain_value(function) else _unwrapping(step)


def _takes(function: FunctionType, count: int) -> bool:
    return function.__code__.co_argcount == count and not function.__defaults__


def _outermost(call: Callable[[Any], Awaitable[Any]], metadata: ResultMetadata) -> Run:
    async def run(message: Any) -> CatgaResult[Any]:
        try:
            return Success(await call(message), metadata)
        except BaseException as error:  # noqa: BLE001 - the border around a user's handler
            return Failure(failed(error, message), metadata)

    return run


def _direct(handler: Handler, metadata: ResultMetadata) -> Direct:
    def direct(message: Any) -> CatgaResult[Any]:
        try:
            return Success(handler(message), metadata)
        except BaseException as error:  # noqa: BLE001 - the border around a user's handler
            return _failure(error, message, metadata)

    def unwrapping(message: Any) -> CatgaResult[Any]:
        try:
            value: Any = handler(message)
            kind: object = type(value)  # pyright: ignore[reportUnknownVariableType]
            if kind is Failure or kind is Success:  # as `is_result`, without a call, on a node's quick path
                value = value.unwrap()
            return Success(value, metadata)
        except BaseException as error:  # noqa: BLE001 - as above
            return _failure(error, message, metadata)

    return direct if returns_plain_value(handler) else unwrapping


def _failure(error: BaseException, message: Any, metadata: ResultMetadata) -> Failure:
    """What a plain function raised, as a failure. It is not cancelled, as it never waits."""
    if isinstance(error, ENDS):
        raise error
    return Failure(answered(error, message), metadata)


def _asynchronous(direct: Direct) -> Run:
    async def run(message: Any) -> CatgaResult[Any]:
        return direct(message)

    return run


def _calling(handler: Handler, unwrapping: "Callable[[Call], Call] | None" = None) -> Call:
    """`handler` as a coroutine function that returns the plain value, or raises."""
    call: Call = handler if is_coroutine_function(handler) else _awaitable(handler)
    return call if returns_plain_value(handler) else (unwrapping or _unwrapping)(call)


def _awaitable(handler: Handler) -> Call:
    async def call(message: Any) -> Any:
        value = handler(message)
        return await value if hasattr(value, "__await__") else value

    return call


def _unwrapping(call: Call) -> Call:
    async def unwrapped(message: Any) -> Any:
        value = await call(message)
        return value.unwrap() if is_result(value) else value

    return unwrapped


def _running(call: Call) -> Call:
    """As `_unwrapping`, for a handler of an event, whose value nobody sees: a generator would never run."""

    async def run(message: Any) -> Any:
        value = await call(message)
        if isinstance(value, GeneratorType | AsyncGeneratorType):
            raise TypeError("it returned a generator, which nobody runs")
        return value.unwrap() if is_result(value) else value

    return run


def uses_nothing_else(function: FunctionType) -> bool:
    """Whether the code names nothing but its own variables: then a result can only come from what it calls."""
    code = function.__code__
    return not (code.co_names or code.co_freevars or code.co_cellvars)


def is_result(value: object) -> TypeGuard[CatgaResult[Any]]:
    """Whether `value` is a `CatgaResult`."""
    return type(value) is Success or type(value) is Failure  # `isinstance` is slow with classes of Struct's kind


ENDS = (SystemExit, KeyboardInterrupt, GeneratorExit)
"""What ends the program, or the coroutine: no failure of a handler."""


def failed(error: BaseException, message: object) -> CatgaError:
    """Return what the handler of `message` raised as an error of ours, and log it if it is a bug.

    Raises:
        asyncio.CancelledError: that it is, and it was meant for this task, not for something that the handler awaits.
        SystemExit, KeyboardInterrupt, GeneratorExit: that it is.
    """
    if isinstance(error, ENDS):
        raise error
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise error
    return answered(error, message)


def answered(error: BaseException, message: object) -> CatgaError:
    """Return what the handler of `message` raised as an error of ours.

    A `CatgaError` is an answer. Everything else is a bug, and is logged here, where its traceback is.
    """
    name = wire_name(type(message))
    if isinstance(error, CatgaError):
        return as_catga_error(passed_on(error))
    handlers.error("a handler of %s raised %s", name, _shown(error), exc_info=error, extra={"catga_message": name})
    return as_catga_error(error)


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a `__str__` of the user's
        return "<its text cannot be made>"


def _shown(error: BaseException) -> str:
    return f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")


def as_catga_error(error: BaseException) -> CatgaError:
    """`error` itself if it belongs to our tree, else a `HandlerError` that tells of it."""
    if isinstance(error, CatgaError):
        with suppress(Exception):  # a class of the user's may not let it be set
            # It ran: that it was refused further down (a nested call) is not a reason to run it elsewhere.
            return as_answer(error)
    name = _shown(error)
    if isinstance(error, asyncio.CancelledError):
        name, text = "CancelledError", "the handler was cancelled"
    else:
        text = _text(error)
    wrapped = HandlerError(f"{name}: {text}", details={"type": name, "message": text})
    wrapped.__cause__ = error
    return with_doubt(wrapped, [error])


def combined(errors: Sequence[CatgaError]) -> CatgaError:
    """What several handlers of one event raised, as one error. Its cause has them all, for who shows tracebacks."""
    if len(errors) == 1:
        return errors[0]
    texts = [str(error) for error in errors]
    together = HandlerError(f"{len(errors)} handlers failed: {'; '.join(texts)}", details={"failures": texts})
    together.__cause__ = ExceptionGroup("handlers of one event", errors)
    return with_doubt(together, errors)
