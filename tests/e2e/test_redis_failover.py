"""A Redis server that becomes a replica, and the name that leads to the new primary, on real servers."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import NamedTuple

import msgspec
import pytest
from nodes import Ear, members, node
from redis_bed import SYNC_AT_ONCE, Name, opened, plain, record, replicate, swap

from catga import Mediator, Request, add_cluster
from catga.errors import ClusterError
from catga.result import CatgaResult
from catga.testing.servers import RedisServer
from catga.testing.waiting import eventually


class Once(msgspec.Struct, Request[int], frozen=True):
    """Must not run twice."""

    number: int


class Pair(NamedTuple):
    """A primary, its replica, and the name of the primary."""

    first: str
    second: str
    name: Name

    async def fail_over(self) -> None:
        await swap(self.first, self.second)
        self.name.lead_to(self.second)


@pytest.fixture
async def pair(quick_looks: None) -> AsyncIterator[Pair]:
    with RedisServer(args=SYNC_AT_ONCE) as first, RedisServer(args=SYNC_AT_ONCE) as second:
        await replicate(second.url, first.url)
        async with Name(first.url) as name:
            yield Pair(first.url, second.url, name)


async def listeners(url: str) -> int:
    async with plain(url) as client:
        return len(await client.client_list(_type="pubsub"))


async def test_nodes_leave_a_server_that_became_a_replica_and_meet_again_on_the_new_primary(pair: Pair) -> None:
    async with node(pair.name.url, "alpha") as alpha, node(pair.name.url, "beta") as beta:
        await eventually(lambda: members(alpha) == members(beta) == ["alpha", "beta"])
        await pair.fail_over()
        await eventually(lambda: alpha.health == beta.health == "degraded")
        await eventually(lambda: alpha.health == beta.health == "healthy")
        assert await listeners(pair.first) == 0
        async with node(pair.second, "gamma") as gamma:
            await eventually(lambda: members(alpha) == members(beta) == members(gamma) == ["alpha", "beta", "gamma"])


async def test_a_write_that_a_replica_refuses_ends_the_session_even_where_hello_is_forbidden(pair: Pair) -> None:
    for url in (pair.first, pair.second):
        async with plain(url) as client:
            await client.execute_command("ACL", "SETUSER", "default", "-hello")
    ear = Ear()
    async with opened(pair.name.url, ear) as backend:
        await backend.discovery.register(record())
        await pair.fail_over()
        with pytest.raises(ClusterError, match="READONLY"):
            await backend.discovery.heartbeat(record())
        await eventually(lambda: ear.links == [False, True])
        await backend.discovery.heartbeat(record())


async def test_a_request_that_must_not_run_twice_does_not_while_nodes_move_to_a_new_primary(pair: Pair) -> None:
    runs: Counter[int] = Counter()

    def app() -> Mediator:
        mediator = Mediator()

        @mediator.handler
        async def once(request: Once) -> int:
            runs[request.number] += 1
            return request.number

        return mediator

    async with (
        node(pair.name.url, "caller", request_timeout=10.0) as caller,
        add_cluster(app(), pair.name.url, node_id="a"),
        add_cluster(app(), pair.name.url, node_id="b"),
    ):
        await eventually(lambda: members(caller) == ["a", "b", "caller"])
        sent: list[asyncio.Task[CatgaResult[int]]] = []

        def is_at(health: str) -> bool:
            sent.append(asyncio.create_task(caller.send(Once(len(sent)))))
            return caller.health == health

        await eventually(lambda: is_at("healthy") and len(sent) > 10)
        await pair.fail_over()
        # It is refused, so that the others are still there; it may be tried again until the link is back.
        leaving = asyncio.create_task(caller.update(metadata={"leaves": "first"}))
        await eventually(lambda: is_at("degraded"))
        await eventually(lambda: is_at("healthy"))
        with suppress(ClusterError):
            await leaving
        assert await listeners(pair.first) == 0  # the others are gone, too
        await asyncio.gather(*sent)
        assert (await caller.send(Once(len(sent)))).is_success
    assert max(runs.values()) == 1


async def test_a_link_is_up_only_if_both_connections_are_with_one_server() -> None:
    with RedisServer() as one, RedisServer() as other:

        class TwoServers(Name):
            """Each connection is with another server than the one before."""

            async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                self.lead_to(one.url if self.connections % 2 else other.url)
                await super()._serve(reader, writer)

        async with TwoServers(one.url) as name:
            with pytest.raises(ClusterError, match="are with two servers"):
                await node(name.url, "alpha", connect_timeout=1.0).start()


async def test_a_replica_is_no_server_to_start_with(pair: Pair) -> None:
    with pytest.raises(ClusterError, match="is a replica"):
        await node(pair.second, "alpha", connect_timeout=0.5).start()
