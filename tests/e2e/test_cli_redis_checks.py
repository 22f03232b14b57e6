"""What `catga doctor` finds out about a Redis server."""

import asyncio
import json
from contextlib import suppress

import pytest
from click.testing import CliRunner
from redis import Redis as SyncRedis
from redis.asyncio import Redis
from redis.exceptions import BusyLoadingError, RedisError, ResponseError
from redis_bed import SYNC_AT_ONCE, plain, replicate

from catga.cli.app import cli
from catga.cli.checks import Finding, Level
from catga.cli.checks.redis import examine
from catga.cli.options import Where
from catga.testing.servers import RedisServer
from catga.testing.waiting import eventually

USER = "ann on >s3cret ~catga:* resetchannels &catga* -@all +@connection"


async def checks(rules: str) -> dict[str, Finding]:
    """What is found for a user with these rules. Whatever it is, no keys are left."""
    with RedisServer(args=["--user", *rules.split()]) as server:
        where = Where(server.url.replace("://", "://ann:s3cret@"), "catga", 5.0)
        found = {finding.check: finding async for finding in examine(where)}
        async with plain(server.url) as client:
            assert await client.keys("*") == []
        return found


async def test_the_permissions_that_are_advised_are_those_that_were_missing() -> None:
    lacking = (await checks(f"{USER} +@read +@write +@pubsub +eval"))["permissions"]
    assert lacking.level is Level.PROBLEM
    advised = await checks(f"ann on >s3cret {lacking.fix.removeprefix('ACL: ')}")
    assert advised["permissions"].level is advised["queues"].level is Level.OK, advised


@pytest.mark.parametrize(
    "command", ["set", "mget", "del", "hset", "hdel", "hgetall", "publish", "subscribe", "unsubscribe"]
)
async def test_each_command_that_the_scripts_use_is_missed(command: str) -> None:
    finding = (await checks(f"{USER} +@read +@write +@pubsub +eval +time -{command}"))["permissions"]
    assert finding.level is Level.PROBLEM, finding


@pytest.mark.parametrize("command", ["sadd", "srem", "srandmember"])
async def test_each_command_that_queues_need_is_missed_by_them_alone(command: str) -> None:
    rules = f"{USER} ~catga.queue.* +@read +@write +@pubsub +eval +time"
    found = await checks(f"{rules} -{command}")
    assert (found["queues"].level, found["permissions"].level) == (Level.WARNING, Level.OK)
    assert (await checks(rules))["queues"].level is Level.OK


async def test_a_user_who_may_not_ping_is_told_so() -> None:
    finding = (await checks(f"{USER} +@read +@write +@pubsub +eval +time -ping"))["permissions"]
    assert finding.level is Level.PROBLEM
    assert "ping" in finding.text


async def test_a_server_that_forbids_info_is_reachable() -> None:
    found = await checks(f"{USER} +@read +@write +@pubsub +eval +time")
    assert found["reachable"].level is found["version"].level is Level.OK


async def test_a_replica_is_a_problem() -> None:
    with RedisServer(args=SYNC_AT_ONCE) as primary, RedisServer() as server:
        await replicate(server.url, primary.url)
        found = [finding async for finding in examine(Where(server.url, "catga", 5.0))]
    assert (found[-1].check, found[-1].level) == ("role", Level.PROBLEM)


ADVICE = {"memory": "raise maxmemory", "disk": "free its disk", "replicas": "start the replicas"}


@pytest.mark.parametrize("trouble", ADVICE)
async def test_a_server_that_takes_no_writes_is_blamed_and_not_its_user(trouble: str) -> None:
    with RedisServer(args=["--enable-protected-configs", "yes"]) as server:
        async with plain(server.url) as client:
            await client.set("x", 1)
            await make_trouble(client, trouble)
            found = {finding.check: finding async for finding in examine(Where(server.url, "catga", 5.0))}
            await asyncio.to_thread(server.kill)  # it would not stop without saving
    assert found[trouble].level is Level.PROBLEM
    assert ADVICE[trouble] in found[trouble].fix
    assert "permissions" not in found
    assert found["queues"].level is Level.INFO
    assert "ACL" not in "".join(finding.fix for finding in found.values())
    assert found["bounces"].level is Level.OK


async def make_trouble(client: Redis, trouble: str) -> None:
    """Return once the server takes no writes."""
    if trouble == "memory":
        await client.config_set("maxmemory", 1)
    elif trouble == "replicas":
        await client.config_set("min-replicas-to-write", 1)
    else:
        await client.config_set("save", "3600 1")
        await client.config_set("dir", "/proc")
        with suppress(ResponseError):
            await client.bgsave()
    await eventually(lambda: is_refused(client))


async def is_refused(client: Redis) -> bool:
    try:
        await client.set("x", 1)
    except (ResponseError, BusyLoadingError):
        return True
    return False


async def test_a_server_that_loads_its_data_is_said_to_load() -> None:
    slowly = ["--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024"]  # 1 ms a key
    with RedisServer(args=["--enable-debug-command", "yes", *slowly]) as server:
        async with plain(server.url) as client, plain(server.url) as other:
            await client.mset({f"key{number}": "x" for number in range(20_000)})
            loading = asyncio.create_task(client.execute_command("DEBUG", "RELOAD"))
            await eventually(lambda: is_refused(other))
            found = [finding async for finding in examine(Where(server.url, "catga", 5.0))]
            await asyncio.to_thread(server.kill)
            with suppress(RedisError):
                await loading
    assert (found[-1].check, found[-1].level) == ("loading", Level.PROBLEM)
    assert found[-1].fix


async def test_a_server_that_is_lost_while_it_is_looked_at_is_said_to_be_lost() -> None:
    found = []
    with RedisServer() as server:
        async for finding in examine(Where(server.url, "catga", 2.0)):
            found.append(finding)
            if finding.check == "eviction":
                await asyncio.to_thread(server.kill)
    assert (found[-1].check, found[-1].level) == ("reachable", Level.PROBLEM)
    assert found[-1].fix


async def test_an_option_of_the_url_that_does_not_exist_is_told() -> None:
    with RedisServer() as server:
        (found,) = [finding async for finding in examine(Where(f"{server.url}?foo=1", "catga", 5.0))]
    assert (found.level, found.fix) == (Level.PROBLEM, "mend the URL")
    assert "foo" in found.text


@pytest.mark.parametrize("args", [(), ("--json",)])
def test_doctor_ends_its_list_where_the_nodes_may_not_be_looked_at(args: tuple[str, ...]) -> None:
    """A key of another kind where the nodes' index should be, say."""
    with RedisServer() as server:
        with SyncRedis.from_url(server.url) as client:
            client.set("catga:nodes", "not an index")
        result = CliRunner().invoke(cli, ["doctor", *args], env={"CATGA_URL": server.url})
    assert result.exit_code == 1, result.output
    assert "Error:" not in result.output
    if args:
        last = json.loads(result.stdout)[-1]
        assert (last["check"], last["level"]) == ("nodes", "problem")
        assert "'catga:nodes'" in last["text"]
