"""Interceptors put together: the chain around a verb, and the chain around a pipeline."""

from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Protocol

from catga.abc import Forward, Handle, Interceptor
from catga.errors import REFUSED, CatgaError, HandlerError, what_is_refused
from catga.mediator.carried import CONTEXT
from catga.mediator.message_context import running_on
from catga.mediator.pipeline import Run, failed, is_result
from catga.result import CatgaResult, Failure, ResultMetadata


class Received(Protocol):
    """Runs a message that came with headers."""

    def __call__(self, message: Any, headers: Mapping[str, str], /) -> Coroutine[Any, Any, CatgaResult[Any]]: ...


def sending(interceptors: Sequence[Interceptor], forward: Forward) -> Forward:
    """`forward` inside `interceptors`, the first of them outermost."""
    for interceptor in reversed(interceptors):
        forward = _sending_step(interceptor, forward)
    return forward


def handling(interceptors: Sequence[Interceptor], run: Run, metadata: ResultMetadata) -> Received:
    """`run` inside `interceptors`. One that raises or returns nothing is a failure, never a call without an answer."""

    async def received(message: Any, headers: Mapping[str, str]) -> CatgaResult[Any]:
        handle: Handle = run
        for interceptor in reversed(interceptors):
            handle = _handling_step(interceptor, headers, handle)
        try:
            with running_on(metadata.node_id):
                result: object = await handle(message)
        except BaseException as error:  # noqa: BLE001 - the border around a user's interceptor
            return Failure(_failed(error, message), metadata)
        if is_result(result):
            return result
        text = f"an interceptor's `handling` returned {result!r:.80}: it must return the result that it got, or another"
        return Failure(HandlerError(text), metadata)

    return received


async def send_through(interceptors: Sequence[Interceptor], forward: Forward, message: Any) -> Any:
    """Send `message` by `forward`, inside `interceptors`, with headers of its own."""

    def without_context(message: Any, headers: dict[str, str]) -> Any:
        headers.pop(CONTEXT, None)  # it says what `context` does, and nothing else
        return forward(message, headers)

    try:
        return await sending(interceptors, without_context)(message, {})
    except BaseException as error:  # noqa: BLE001 - the border around a user's interceptor
        return Failure(_failed(error, message))


def unheard(run: Run) -> Received:
    """`run` for what nobody handles: so nothing looks at the headers."""
    return lambda message, _: run(message)


def intercepted(interceptors: Sequence[Interceptor], received: Received) -> Run:
    """`received` behind the sending side, where sender and handler are one process."""

    async def send(message: Any) -> CatgaResult[Any]:
        result: CatgaResult[Any] = await send_through(interceptors, received, message)
        return result

    return send


def _failed(error: BaseException, message: Any) -> CatgaError:
    """As `failed`. An interceptor may raise the failure that it was given: that is of its own message."""
    what = what_is_refused(error) if isinstance(error, CatgaError) else None
    failure = failed(error, message)
    if what is not None:
        failure.details[REFUSED] = what
    return failure


def _sending_step(interceptor: Interceptor, forward: Forward) -> Forward:
    def step(message: Any, headers: dict[str, str]) -> Any:
        return interceptor.sending(message, headers, forward)

    return step


def _handling_step(interceptor: Interceptor, headers: Mapping[str, str], handle: Handle) -> Handle:
    def step(message: Any) -> Any:
        return interceptor.handling(message, headers, handle)

    return step
