"""nats-py's `micro` services."""

import nats
import nats.micro
from harness import TIMEOUT, answer, for_ever, main


async def worker(url):
    client = await nats.connect(url)

    async def echo(request):
        await request.respond(request.data)

    service = await nats.micro.add_service(client, name="bench", version="1.0.0")
    await service.add_endpoint(name="echo", subject="micro.echo", handler=echo)
    await client.flush()
    await for_ever()


async def caller(url):
    client = await nats.connect(url)

    async def call(payload):
        await client.request("micro.echo", payload.encode(), timeout=TIMEOUT)

    await answer(call)


main(worker, caller)
