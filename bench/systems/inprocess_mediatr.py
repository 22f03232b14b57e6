"""mediatr in one process; it has no events."""

from mediatr import Mediator
from timing import main


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


async def send(n):
    message, call = Ask(), Mediator().send_async
    for _ in range(n):
        await call(message)


async def send_through_behaviors(n):
    message, call = Wrapped(), Mediator().send_async
    for _ in range(n):
        await call(message)


main({"send": send, "send, 3 behaviors": send_through_behaviors})
