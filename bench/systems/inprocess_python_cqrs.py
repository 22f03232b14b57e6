"""python-cqrs in one process."""

import dataclasses

import cqrs
import di
from cqrs.bootstrap import requests as bootstrap
from cqrs.middlewares import base
from timing import main


@dataclasses.dataclass
class Ask(cqrs.DCRequest):
    """A request."""


class AskHandler(cqrs.RequestHandler):
    @property
    def events(self):
        return []

    async def handle(self, request):
        return None


class Step(base.Middleware):
    async def __call__(self, request, handle):
        return await handle(request)


def mediator(middlewares):
    return bootstrap.bootstrap(
        di_container=di.Container(),
        commands_mapper=lambda mapper: mapper.bind(Ask, AskHandler),
        middlewares=middlewares,
    )


bare, wrapped = mediator([]), mediator([Step(), Step(), Step()])


async def send(n):
    message, call = Ask(), bare.send
    for _ in range(n):
        await call(message)


async def send_through_behaviors(n):
    message, call = Ask(), wrapped.send
    for _ in range(n):
        await call(message)


main({"send": send, "send, 3 behaviors": send_through_behaviors})
