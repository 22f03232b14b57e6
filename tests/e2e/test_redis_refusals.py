"""What a Redis server refuses: told at once, and everything that it still takes goes on."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
from nodes import members, node
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError
from redis_bed import plain

from catga import DistributedMediator, Mediator, Request, add_cluster, message
from catga.errors import Execution
from catga.testing.servers import RedisServer
from catga.testing.waiting import eventually

USER = ("ACL", "SETUSER", "u", "on", ">s", "~*", "&*", "+@all")


@message(idempotent=True)
@dataclass(frozen=True)
class Ask(Request[str]):
    number: int = 0


@dataclass(frozen=True)
class Once(Request[str]):
    number: int = 0


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer(args=["--enable-protected-configs", "yes", "--busy-reply-threshold", "50"]) as own:
        yield own


@pytest.fixture
async def admin(server: RedisServer) -> AsyncIterator[Redis]:
    async with plain(server.url) as client:
        await client.execute_command(*USER)
        yield client


def as_user(server: RedisServer) -> str:
    return server.url.replace("redis://", "redis://u:s@")


def worker(ran: Counter[int]) -> Mediator:
    app = Mediator()

    @app.handler
    async def ask(request: Ask) -> str:
        return "answer"

    @app.handler
    async def once(request: Once) -> str:
        ran[request.number] += 1
        return "answer"

    return app


async def test_a_call_whose_publish_is_refused_never_ran_and_says_so(server: RedisServer, admin: Redis) -> None:
    ran = Counter[int]()
    async with add_cluster(worker(ran), server.url, node_id="a"), node(as_user(server), "c", request_timeout=2.0) as c:
        await admin.execute_command(*USER, "-publish")
        result = await c.send(Once())
        assert not result.is_success
        assert result.error.execution is Execution.NO
        assert "NOPERM" in (c.not_ready or "")
    assert ran == {}


async def test_a_node_whose_record_is_refused_is_not_ready_and_says_why(server: RedisServer, admin: Redis) -> None:
    async with node(as_user(server), "a", heartbeat_interval=0.2) as a:
        await admin.execute_command(*USER, "resetkeys")
        await eventually(lambda: "NOPERM" in (a.not_ready or ""))
        await admin.execute_command(*USER)
        await eventually(lambda: a.not_ready is None)


async def test_a_call_that_is_refused_for_a_moment_succeeds(server: RedisServer, admin: Redis) -> None:
    ran = Counter[int]()
    async with add_cluster(worker(ran), server.url, node_id="a"), node(as_user(server), "c") as c:
        await admin.execute_command(*USER, "-publish")
        call = asyncio.create_task(c.send(Once()))
        await eventually(lambda: c.counters["refused_by_broker"] > 1)
        await admin.execute_command(*USER)
        assert (await call).is_success
        await eventually(lambda: c.not_ready is None)
    assert ran == {0: 1}


async def test_an_answer_that_was_refused_is_given_later(server: RedisServer, admin: Redis) -> None:
    app, begun, go_on = Mediator(), asyncio.Event(), asyncio.Event()

    @app.handler
    async def once(request: Once) -> str:
        begun.set()
        await go_on.wait()
        return "answer"

    async with add_cluster(app, as_user(server), node_id="a") as a, node(server.url, "c") as c:
        call = asyncio.create_task(c.send(Once()))
        await begun.wait()
        await admin.execute_command(*USER, "-publish")
        go_on.set()
        await eventually(lambda: a.counters["refused_by_broker"] > 2)
        await admin.execute_command(*USER)
        assert (await call).is_success


async def test_a_refusal_that_the_broker_refused_is_given_later(server: RedisServer, admin: Redis) -> None:
    app, begun, go_on = Mediator(), asyncio.Event(), asyncio.Event()

    @app.handler
    async def once(request: Once) -> str:
        begun.set()
        await go_on.wait()
        return "answer"

    full = add_cluster(app, as_user(server), node_id="a", max_concurrency=1, max_queue=0)
    async with full as a, node(server.url, "c", request_timeout=20.0) as c:
        running = asyncio.create_task(c.send(Once()))
        await begun.wait()
        await admin.execute_command(*USER, "-publish")
        refused = asyncio.create_task(c.send(Once()))
        await eventually(lambda: a.counters["refused"] == 1)
        before = a.counters["refused_by_broker"]
        await eventually(lambda: a.counters["refused_by_broker"] > before + 1)
        await admin.execute_command(*USER)
        result = await refused
        assert not result.is_success
        assert (result.error.code, result.error.execution) == ("overloaded", Execution.NO)
        go_on.set()
        assert (await running).is_success


async def test_a_busy_server_refuses_at_once_and_nothing_runs_twice(server: RedisServer, admin: Redis) -> None:
    ran = Counter[int]()
    a = add_cluster(worker(ran), server.url, node_id="a")
    async with a, node(server.url, "c") as c, plain(server.url) as other:
        busy = asyncio.create_task(_quietly(other.execute_command("EVAL", "while true do end", 0)))
        calls = [asyncio.create_task(c.send(Once(number))) for number in range(20)]
        await eventually(lambda: c.counters["refused_by_broker"] >= 20)
        await admin.execute_command("SCRIPT", "KILL")
        assert all(result.is_success for result in await asyncio.gather(*calls))
        await busy
    assert set(ran.values()) == {1}


@pytest.mark.parametrize("why", ["MISCONF", "OOM"])
async def test_a_server_that_takes_no_writes_carries_calls_and_lets_nodes_join(
    why: str, server: RedisServer, admin: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    ran = Counter[int]()
    first = add_cluster(worker(ran), server.url, node_id="a", heartbeat_interval=0.2, queues=True)
    async with first as a, node(server.url, "c", heartbeat_interval=0.2) as c:
        await _take_no_writes(admin, server, why)
        await eventually(lambda: any("records cannot be stored now" in record.message for record in caplog.records))
        late = add_cluster(worker(ran), server.url, node_id="late", queues=True)
        async with late:
            await eventually(lambda: members(c) == ["a", "c", "late"])
            await eventually(lambda: members(late) == ["a", "c", "late"])
            await _all_go_on(c, 200)
            assert [each.not_ready for each in (a, c, late)] == [None] * 3
            await _take_writes(admin, server, why)
            await eventually(lambda: admin.exists("catga:nodes:late"))
    assert set(ran.values()) == {1}


@pytest.mark.usefixtures("quick_looks")
async def test_the_link_stays_up_though_the_server_refuses_its_pings(server: RedisServer, admin: Redis) -> None:
    async with node(server.url, "a") as a:
        await _take_no_writes(admin, server, "MISCONF")
        pings = (await admin.info("commandstats"))["cmdstat_ping"]["rejected_calls"]
        await eventually(lambda: _has_refused(admin, pings + 3), 30)
        assert a.not_ready is None
    await _take_writes(admin, server, "MISCONF")  # else it could not save, and would not stop


async def test_a_channel_that_was_forbidden_for_a_moment_is_subscribed_to_again(
    server: RedisServer, admin: Redis
) -> None:
    ran = Counter[int]()
    async with add_cluster(worker(ran), as_user(server), node_id="a") as a, node(as_user(server), "c") as c:
        await admin.execute_command(*USER, "resetchannels", "&catga:*", "&catga.inbox.*")
        await eventually(lambda: "NOPERM" in (a.not_ready or "") and "NOPERM" in (c.not_ready or ""))
        call = asyncio.create_task(c.send(Once()))
        await admin.execute_command(*USER)
        assert (await call).is_success
        await eventually(lambda: a.not_ready is None and c.not_ready is None)


async def _all_go_on(c: DistributedMediator, count: int) -> None:
    results = await asyncio.gather(*(c.send(Once(number)) for number in range(count)))
    assert all(result.is_success for result in results)


async def _has_refused(admin: Redis, count: int) -> bool:
    stats: Any = await admin.info("commandstats")
    return bool(stats["cmdstat_ping"]["rejected_calls"] >= count)


async def _take_no_writes(admin: Redis, server: RedisServer, why: str) -> None:
    await admin.set("x", 1)
    if why == "OOM":
        await admin.config_set("maxmemory", 1)
        return
    await admin.config_set("save", "3600 1")
    await admin.config_set("dir", "/proc")
    await _quietly(admin.bgsave())
    await eventually(lambda: _is_refused(admin))


async def _take_writes(admin: Redis, server: RedisServer, why: str) -> None:
    if why == "OOM":
        await admin.config_set("maxmemory", 0)
        return
    await admin.config_set("dir", str(server.folder))
    await admin.bgsave()


async def _is_refused(admin: Redis) -> bool:
    try:
        await admin.ping()
    except ResponseError:
        return True
    return False


async def _quietly(command: Any) -> None:
    with suppress(RedisError):
        await command
