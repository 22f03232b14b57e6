"""moleculerpy, NATS or Redis by URL."""

from harness import answer, for_ever, main, role
from moleculerpy.broker import ServiceBroker
from moleculerpy.decorators import action
from moleculerpy.service import Service
from moleculerpy.settings import Settings


class Bench(Service):
    name = "bench"

    def __init__(self):
        super().__init__(self.name)

    @action()
    async def echo(self, ctx):
        return ctx.params


async def start(url):
    broker = ServiceBroker(id=role, settings=Settings(namespace="py", transporter=url, log_level="CRITICAL"))
    if role == "worker":
        await broker.register(Bench())
    await broker.start()
    return broker


async def worker(url):
    await start(url)
    await for_ever()


async def caller(url):
    broker = await start(url)
    await broker.wait_for_services(["bench"])

    async def call(payload):
        await broker.call("bench.echo", {"text": payload})

    await answer(call)


main(worker, caller)
