"""python-cqrs in one process."""

import dataclasses

import cqrs
import di
from cqrs.bootstrap import requests as bootstrap
from cqrs.middlewares import base
from timing import main, repeated


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


main(
    {
        "send": repeated(bare.send, Ask()),
        "send, 3 behaviors": repeated(wrapped.send, Ask()),
    }
)
