"""catga, one worker node and one caller node.

The third argument is ``async`` or ``def``, the kind of handler, or ``dataclass``: ``async``, another kind of message.
"""

from dataclasses import dataclass

import msgspec
from harness import answer, for_ever, main, role, variant

from catga import Mediator, Request, add_cluster, message

if variant == "dataclass":

    @message(name="bench.Echo")
    @dataclass(frozen=True, slots=True)
    class Echo(Request[str]):
        text: str

else:

    @message(name="bench.Echo")
    class Echo(msgspec.Struct, Request[str], frozen=True):
        text: str


def node(url):
    app = Mediator()
    if role == "worker" and variant == "def":

        @app.handler
        def echo_directly(request: Echo) -> str:
            return request.text

    elif role == "worker":

        @app.handler
        async def echo(request: Echo) -> str:
            return request.text

    return add_cluster(app, url, node_id=role, prefix=f"bench-{variant}")


async def worker(url):
    async with node(url):
        await for_ever()


async def caller(url):
    async with node(url) as here:

        async def call(payload):
            (await here.send(Echo(payload))).unwrap()

        await answer(call)


main(worker, caller)
