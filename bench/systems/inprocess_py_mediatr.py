"""py-mediatR in one process."""

from py_mediatR import IPipelineBehavior, IRequest, Mediator
from py_mediatR.contracts import INotification
from timing import main


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


async def send(n):
    message, call = Ask(), bare.send_async
    for _ in range(n):
        await call(message)


async def send_through_behaviors(n):
    message, call = Ask(), wrapped.send_async
    for _ in range(n):
        await call(message)


async def publish(n):
    message, call = Told(), bare.publish_async
    for _ in range(n):
        await call(message)


main({"send": send, "send, 3 behaviors": send_through_behaviors, "publish, 3 handlers": publish})
