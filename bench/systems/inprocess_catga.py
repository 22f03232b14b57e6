"""catga in one process."""

from dataclasses import dataclass

from timing import main

from catga import Event, Mediator, Request


@dataclass(frozen=True, slots=True)
class Ask(Request[object]):
    """A request."""


@dataclass(frozen=True, slots=True)
class Told(Event):
    """An event."""


bare, wrapped = Mediator(), Mediator()


async def ask(request: Ask) -> "Ask":
    return request


async def step(message, call_next):
    return await call_next(message)


async def told(event: Told) -> None:
    return None


for mediator in (bare, wrapped):
    mediator.handler(ask)
for _ in range(3):
    wrapped.behavior(step)
    bare.handler(told)


async def send(n):
    message, call = Ask(), bare.send
    for _ in range(n):
        await call(message)


async def send_through_behaviors(n):
    message, call = Ask(), wrapped.send
    for _ in range(n):
        await call(message)


async def publish(n):
    message, call = Told(), bare.publish
    for _ in range(n):
        await call(message)


main({"send": send, "send, 3 behaviors": send_through_behaviors, "publish, 3 handlers": publish})
