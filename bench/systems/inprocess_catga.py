"""catga in one process."""

from dataclasses import dataclass

from timing import main, repeated

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


@bare.handler
async def first(event: Told) -> None:
    return None


@bare.handler
async def second(event: Told) -> None:
    return None


@bare.handler
async def third(event: Told) -> None:
    return None


for mediator in (bare, wrapped):
    mediator.handler(ask)
for _ in range(3):
    wrapped.behavior(step)


main(
    {
        "send": repeated(bare.send, Ask()),
        "send, 3 behaviors": repeated(wrapped.send, Ask()),
        "publish, 3 handlers": repeated(bare.publish, Told()),
    }
)
