"""What `catga doctor` finds out about a Redis server."""

import pytest
from redis_bed import SYNC_AT_ONCE, plain, replicate

from catga.cli.checks import Finding, Level
from catga.cli.checks.redis import examine
from catga.cli.options import Where
from catga.testing.servers import RedisServer

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


@pytest.mark.parametrize("command", ["set", "mget", "del", "hset", "hdel", "hgetall", "publish"])
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
