"""FastStream's `request()`, on NATS or Redis by URL."""

import logging

from harness import TIMEOUT, answer, for_ever, main, url


def make_broker():
    if url.startswith("nats"):
        from faststream.nats import NatsBroker

        return NatsBroker(url, logger=None, log_level=logging.CRITICAL)
    from faststream.redis import RedisBroker

    return RedisBroker(url, max_connections=2000, logger=None, log_level=logging.CRITICAL)


async def worker(_):
    broker = make_broker()

    @broker.subscriber("faststream.echo")
    async def echo(body: bytes) -> bytes:
        return body

    await broker.start()
    await for_ever()


async def caller(_):
    broker = make_broker()
    await broker.start()

    async def call(payload):
        await broker.request(payload.encode(), "faststream.echo", timeout=TIMEOUT)

    await answer(call)


main(worker, caller)
