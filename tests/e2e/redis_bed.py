"""What the tests of the Redis backend share: opened backends, plain clients, records."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from nodes import Ear
from redis.asyncio import Redis

from catga import NodeInfo
from catga.abc import Backend, BackendSettings, Observation, Sighting
from catga.backends.redis import RedisNodeDiscovery, open_backend
from catga.testing.proxy import Proxy
from catga.testing.waiting import eventually

SYNC_AT_ONCE = ["--repl-diskless-sync-delay", "0"]
"""Arguments of a primary: it does not wait for a second replica before it gives its data to the first."""


@asynccontextmanager
async def plain(url: str) -> AsyncIterator[Redis]:
    client = Redis.from_url(url)
    try:
        yield client
    finally:
        await client.aclose()


@asynccontextmanager
async def opened(url: str, ear: Ear | None = None, prefix: str = "catga", ttl: float = 120.0) -> AsyncIterator[Backend]:
    # For so long after it was opened, what finds no link is tried again.
    backend = open_backend(BackendSettings(url=url, prefix=prefix, ttl=ttl, connect_timeout=2.0))
    await backend.transport.start(ear or Ear())
    try:
        yield backend
    finally:
        await backend.discovery.aclose()
        await backend.transport.aclose()


def record(node_id: str = "alpha", incarnation: int = 5, sequence: int = 0, load: float = 0.0) -> NodeInfo:
    return NodeInfo(node_id=node_id, incarnation=incarnation, sequence=sequence, load=load)


class Name(Proxy):
    """An address that leads to another server later on, as a name does after a failover. What is connected stays."""

    def lead_to(self, url: str) -> None:
        self._parts = urlsplit(url)


async def replicate(replica: str, primary: str) -> None:
    """Return when what is published on `primary` reaches `replica`."""
    async with plain(primary) as above, plain(replica) as below, below.pubsub() as ear:
        await below.execute_command("REPLICAOF", *urlsplit(primary).netloc.split(":"))
        await ear.subscribe("replicated")

        async def arrives() -> bool:
            await above.publish("replicated", "x")
            return await ear.get_message(ignore_subscribe_messages=True, timeout=0.05) is not None

        await eventually(arrives)


async def swap(primary: str, replica: str) -> None:
    """A failover that disconnects nobody."""
    async with plain(replica) as client:
        await client.execute_command("REPLICAOF", "NO", "ONE")
    await replicate(primary, replica)


class Heard:
    """What a discovery observes."""

    def __init__(self) -> None:
        self.all: list[Observation] = []

    async def watch(self, backend: Backend, knowing: Iterable[NodeInfo] = ()) -> RedisNodeDiscovery:
        known = [Sighting(node, 1.0) for node in knowing]
        await backend.discovery.watch(self.all.append, lambda: known)
        assert isinstance(backend.discovery, RedisNodeDiscovery)
        return backend.discovery
