"""The application that the tests of the command line run and talk to."""

import asyncio
import os
from dataclasses import dataclass

from catga import Event, Mediator, Request, message


@message(idempotent=True, key="sku")
@dataclass(frozen=True)
class CreateOrder(Request[dict[str, int]]):
    sku: str
    quantity: int = 1


@dataclass(frozen=True)
class Work(Request[str]):
    """Not idempotent: a lost one is never sent again."""

    seconds: float


@dataclass(frozen=True)
class Fail(Request[None]):
    pass


@dataclass(frozen=True)
class Die(Request[None]):
    pass


@message(idempotent=True)
@dataclass(frozen=True)
class DieAgain(Request[None]):
    pass


@dataclass(frozen=True)
class Created(Event):
    sku: str


mediator = Mediator()


@mediator.handler
async def create(request: CreateOrder) -> dict[str, int]:
    return {request.sku: request.quantity}


@mediator.handler
async def work(request: Work) -> str:
    await asyncio.sleep(request.seconds)
    return "done"


@mediator.handler
async def fail(request: Fail) -> None:
    raise RuntimeError("out of stock")


@mediator.handler
async def die(request: Die) -> None:
    os._exit(7)


@mediator.handler
async def die_again(request: DieAgain) -> None:
    os._exit(7)


@mediator.handler
async def created(event: Created) -> None:
    if event.sku.startswith("bad"):
        raise RuntimeError(f"cannot note {event.sku}")


def make() -> Mediator:
    return mediator
