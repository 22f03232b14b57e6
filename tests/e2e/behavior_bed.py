"""Where the tests of behaviors run: in one process, and from another node over each bus."""

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest

from catga import Event, Mediator, Request, add_cluster

Join = Callable[..., Awaitable[Mediator]]
"""`await join(app, caller=None)`: let `app` serve, and get the mediator to call it from."""


@dataclass(frozen=True)
class Work(Request[int]):
    number: int


@dataclass(frozen=True)
class Order(Request[None]):
    number: int


@dataclass(frozen=True)
class Happened(Event):
    number: int


@pytest.fixture(params=["one node", "memory", "nats"])
async def join(request: pytest.FixtureRequest) -> AsyncIterator[Join]:
    prefix = f"t{uuid.uuid4().hex[:12]}"
    url = request.getfixturevalue("nats_url") if request.param == "nats" else f"memory://{prefix}"
    async with AsyncExitStack() as stack:

        async def join(app: Mediator, caller: Mediator | None = None) -> Mediator:
            if request.param == "one node":
                return app
            node = add_cluster(app, url, node_id="worker", prefix=prefix)
            await stack.enter_async_context(node)
            return await stack.enter_async_context(
                add_cluster(caller or Mediator(), url, node_id="caller", prefix=prefix)
            )

        yield join
