"""nats-py, `request()` and a subscription."""

import nats
from harness import TIMEOUT, answer, for_ever, main


async def worker(url):
    client = await nats.connect(url)

    async def echo(message):
        await message.respond(message.data)

    await client.subscribe("raw.echo", cb=echo)
    await client.flush()
    await for_ever()


async def caller(url):
    client = await nats.connect(url)

    async def call(payload):
        await client.request("raw.echo", payload.encode(), timeout=TIMEOUT)

    await answer(call)


main(worker, caller)
