"""py-mediatR in one process."""

from py_mediatR import IPipelineBehavior, IRequest, Mediator
from py_mediatR.contracts import INotification
from timing import main, repeated


class Ask(IRequest):
    """A request."""


class Told(INotification):
    """An event."""


class AskHandler:
    async def handle(self, request: Ask):
        return request


class ToldHandler:
    async def handle(self, event: Told):
        return None


class Step(IPipelineBehavior):
    async def handle(self, request, next_handler):
        return await next_handler()


bare = Mediator(auto_discover=False)
wrapped = Mediator(auto_discover=False, behaviors=[Step(), Step(), Step()])
for mediator in (bare, wrapped):
    mediator.register_handler(Ask, AskHandler())
for _ in range(3):
    bare.register_notification_handler(Told, ToldHandler())


main(
    {
        "send": repeated(bare.send_async, Ask()),
        "send, 3 behaviors": repeated(wrapped.send_async, Ask()),
        "publish, 3 handlers": repeated(bare.publish_async, Told()),
    }
)
