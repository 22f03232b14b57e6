"""The floor: what no mediator with catga's results can do without.

A look-up by class, a coroutine that catches what is raised, and a result; the behaviors nested by hand; for an event a
loop over its handlers.
"""

from timing import main, repeated

from catga import Failure, Success


class Ask:
    """A request."""


class Told:
    """An event."""


async def ask(request):
    return request


async def first(event):
    return None


async def second(event):
    return None


async def third(event):
    return None


async def inner(request):
    return await ask(request)


async def middle(request):
    return await inner(request)


async def outer(request):
    return await middle(request)


class Floor:
    """Both verbs. Args: handler: of `Ask`."""

    def __init__(self, handler):
        self.handlers = {Ask: handler}
        self.listeners = {Told: (first, second, third)}

    async def send(self, request):
        try:
            return Success(await self.handlers[type(request)](request))
        except Exception as error:
            return Failure(error)

    async def publish(self, event):
        for listener in self.listeners[type(event)]:
            try:
                await listener(event)
            except Exception as error:
                return Failure(error)
        return None


bare, wrapped = Floor(ask), Floor(outer)


main(
    {
        "send": repeated(bare.send, Ask()),
        "send, 3 behaviors": repeated(wrapped.send, Ask()),
        "publish, 3 handlers": repeated(bare.publish, Told()),
    }
)
