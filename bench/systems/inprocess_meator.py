"""meator in one process; it returns the bare value."""

from dataclasses import dataclass

from meator.dispatchers import CommandDispatcherImpl
from meator.entities import Command, Event
from meator.interfaces import CommandHandler, EventHandler, Middleware
from meator.observers import EventObserverImpl
from timing import main


@dataclass
class Ask(Command[object]):
    """A request."""


@dataclass
class Told(Event):
    """An event."""


class AskHandler(CommandHandler[Ask, object]):
    async def __call__(self, request):
        return request


class ToldHandler(EventHandler[Told]):
    async def __call__(self, event):
        return None


class Step(Middleware):
    async def __call__(self, call_next, request):
        return await call_next(request)


bare = CommandDispatcherImpl()
wrapped = CommandDispatcherImpl(middlewares=[Step(), Step(), Step()])
observer = EventObserverImpl()
bare.register(Ask, AskHandler())
wrapped.register(Ask, AskHandler())
observer.register(Told, [ToldHandler(), ToldHandler(), ToldHandler()])


async def send(n):
    message, call = Ask(), bare.handle
    for _ in range(n):
        await call(message)


async def send_through_behaviors(n):
    message, call = Ask(), wrapped.handle
    for _ in range(n):
        await call(message)


async def publish(n):
    message, call = Told(), observer.handle
    for _ in range(n):
        await call(message)


main({"send": send, "send, 3 behaviors": send_through_behaviors, "publish, 3 handlers": publish})
