"""mediatr in one process; it has no events."""

from mediatr import Mediator
from timing import main, repeated


class Ask:
    """A request."""


class Wrapped:
    """A request with behaviors around it."""


@Mediator.handler
async def ask(request: Ask):
    return request


@Mediator.handler
async def ask_wrapped(request: Wrapped):
    return request


def add_step():
    @Mediator.behavior
    async def step(request: Wrapped, next):
        return await next()


for _ in range(3):
    add_step()


main(
    {
        "send": repeated(Mediator().send_async, Ask()),
        "send, 3 behaviors": repeated(Mediator().send_async, Wrapped()),
    }
)
