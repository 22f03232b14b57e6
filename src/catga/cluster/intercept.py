"""Interceptors on a node of a cluster: headers on their way out with a call, and in with one.

Headers go from the verb to the delivery by a context variable, so that no verb has to hand them on: it is only
touched where an interceptor is installed.
"""

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from catga.abc import Interceptor
from catga.mediator.intercept import handling, send_through
from catga.result import CatgaResult, Failure, ResultMetadata
from catga.rpc.server import Endpoint

_outgoing: ContextVar[dict[str, str] | None] = ContextVar("catga_outgoing_headers", default=None)


def outgoing_headers() -> dict[str, str] | None:
    """The headers of what is being sent."""
    return _outgoing.get()


async def through(interceptors: Sequence[Interceptor], message: Any, verb: Callable[[Any], Awaitable[Any]]) -> Any:
    """``verb(message)`` inside `interceptors`; a `Failure` where it raised."""

    async def forward(message: Any, headers: dict[str, str]) -> Any:
        token = _outgoing.set(headers)
        try:
            return await verb(message)
        finally:
            _outgoing.reset(token)

    return await send_through(interceptors, forward, message)


async def through_or_raise(
    interceptors: Sequence[Interceptor], message: Any, verb: Callable[[Any], Awaitable[Any]]
) -> Any:
    """The same for verbs that raise and whose answer is no result."""
    answer = await through(interceptors, message, verb)
    if isinstance(answer, Failure):
        raise answer.error
    return answer


def with_interceptors(endpoint: Endpoint, interceptors: Sequence[Interceptor], metadata: ResultMetadata) -> Endpoint:
    """`endpoint`, for calls with headers."""
    received = handling(interceptors, endpoint.run, metadata)

    def receiving(headers: Mapping[str, str]) -> Endpoint:
        def run(message: Any) -> Coroutine[Any, Any, CatgaResult[Any]]:
            return received(message, headers)

        return Endpoint(endpoint.codec, run, None)

    return Endpoint(endpoint.codec, endpoint.run, None, receiving)
