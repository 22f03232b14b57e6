"""redis-py, request and reply by pub/sub, one pooled `publish` a message."""

import asyncio
import secrets

import redis.asyncio
from harness import TIMEOUT, answer, for_ever, main


async def listen(client, channel, on_message):
    pubsub = client.pubsub()
    await pubsub.subscribe(channel)

    async def loop():
        async for message in pubsub.listen():
            if message["type"] == "message":
                on_message(message["data"])

    await asyncio.sleep(0.2)
    return asyncio.create_task(loop())


async def worker(url):
    client = redis.asyncio.from_url(url, max_connections=2000)
    running = set()

    async def echo(data):
        box, number, payload = data.split(b"|", 2)
        await client.publish(box, number + b"|" + payload)

    def on_message(data):
        task = asyncio.create_task(echo(data))
        running.add(task)
        task.add_done_callback(running.discard)

    listening = await listen(client, "raw.echo", on_message)
    await for_ever()
    listening.cancel()


async def caller(url):
    client = redis.asyncio.from_url(url, max_connections=2000)
    box = secrets.token_hex(8)
    waiting, count = {}, 0

    def on_message(data):
        number, _, payload = data.partition(b"|")
        future = waiting.pop(int(number), None)
        if future is not None and not future.done():
            future.set_result(payload)

    async def call(payload):
        nonlocal count
        count += 1
        future = waiting[count] = asyncio.get_running_loop().create_future()
        await client.publish("raw.echo", f"{box}|{count}|{payload}".encode())
        await asyncio.wait_for(future, TIMEOUT)

    listening = await listen(client, box, on_message)
    await answer(call)
    listening.cancel()


main(worker, caller)
