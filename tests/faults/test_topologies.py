"""The beds of the faults hold what they say: a cut passes nothing, a heal passes all, a name follows the primary."""

import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path

import nats
import pytest
from nats.aio.msg import Msg
from redis.asyncio import Redis

sys.path.insert(0, str(Path(__file__).parent))

from topologies import Split, gateway, leaf, routes, sentinels

from catga.testing.waiting import eventually


async def outcome(asker: nats.NATS) -> str:
    """What becomes of a question on ``echo``."""
    try:
        await asker.request("echo", b"", timeout=1)
    except nats.errors.NoRespondersError:
        return "nobody listens"
    except nats.errors.TimeoutError:
        return "lost"  # on its way when the link was cut
    return "answered"


async def becomes(expected: str, asker: nats.NATS) -> None:
    async def is_so() -> bool:
        return await outcome(asker) == expected

    await eventually(is_so)


async def respond(message: Msg) -> None:
    with suppress(nats.errors.Error):  # it is being closed
        await message.respond(b"")


@pytest.mark.parametrize("make", [leaf, gateway, routes])
async def test_halves_that_are_cut_apart_do_not_hear_each_other_until_they_are_healed(
    make: Callable[[], AbstractAsyncContextManager[Split]],
) -> None:
    async with make() as split, await nats.connect(split.far[0]) as far, await nats.connect(split.near[-1]) as near:
        await far.subscribe("echo", cb=respond)
        await far.flush()
        await becomes("answered", near)
        for _ in range(2):  # the servers may have told each other of ways around the links meanwhile
            split.cut()
            await becomes("nobody listens", near)
            split.heal()
            await becomes("answered", near)


async def test_the_name_leads_to_the_primary_that_the_sentinels_made() -> None:
    async with sentinels() as bed:
        await bed.command()
        await eventually(lambda: bed.promoted, 30.0)
        async with Redis.from_url(bed.url) as client, Redis.from_url(bed.second.url) as second:
            await client.set("written", "1")
            assert await second.get("written") == b"1"
