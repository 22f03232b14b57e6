"""meator in one process; it returns the bare value."""

from dataclasses import dataclass

from meator.dispatchers import CommandDispatcherImpl
from meator.entities import Command, Event
from meator.interfaces import CommandHandler, EventHandler, Middleware
from meator.observers import EventObserverImpl
from timing import main, repeated


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


main(
    {
        "send": repeated(bare.handle, Ask()),
        "send, 3 behaviors": repeated(wrapped.handle, Ask()),
        "publish, 3 handlers": repeated(observer.handle, Told()),
    }
)
