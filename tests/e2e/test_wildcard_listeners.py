"""Somebody who listens to everything hides that nobody else listens: `doctor` says so, and Redis can count exactly."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats
import pytest
from nodes import Ear, outgoing
from redis_bed import plain

from catga.abc import BackendSettings, Outgoing
from catga.backends.redis import open_backend
from catga.cli.checks import Finding, Level
from catga.cli.checks.broker import examine
from catga.cli.options import Where
from catga.testing.servers import NatsServer
from catga.testing.waiting import eventually


@asynccontextmanager
async def watching(url: str) -> AsyncIterator[None]:
    """A client that listens to everything."""
    if url.startswith("nats"):
        async with await nats.connect(url) as client:
            await client.subscribe("watched.>")
            await client.flush()
            yield
        return
    async with plain(url) as client, client.pubsub() as channel:
        await channel.psubscribe("*")
        await channel.get_message(timeout=5)
        yield


async def bounces(url: str) -> Finding:
    """What `doctor` finds out about messages to nobody."""
    found = [each async for each in examine(Where(url, "watched", 5.0)) if each.check == "bounces"]
    return found[0]


@pytest.fixture(params=["nats_url", "redis_url"])
def url(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


async def test_doctor_finds_who_listens_to_everything(url: str) -> None:
    assert (await bounces(url)).level is Level.OK
    async with watching(url):
        found = await bounces(url)
        assert found.level is Level.WARNING
        assert "subscribes to" in found.text
        assert found.fix


async def test_doctor_finds_a_server_that_tells_no_bounces(tmp_path: Path) -> None:
    (tmp_path / "nats.conf").write_text("no_header_support: true")
    with NatsServer(args=["-c", str(tmp_path / "nats.conf")]) as server:
        assert (await bounces(server.url)).level is Level.WARNING


async def test_told_to_count_exactly_redis_takes_a_pattern_for_nobody(redis_url: str) -> None:
    ear, transport = Ear(), open_backend(BackendSettings(url=redis_url, prefix="exact")).transport
    await transport.start(ear)
    await transport.subscribe("exact.here")
    await transport.subscribe("exact.queue", shared=True)
    async with watching(redis_url):
        transport.publish(outgoing("exact.nobody", b"unseen"))
        transport.count_exactly()  # type: ignore[attr-defined]
        transport.publish(outgoing("exact.nobody", b"seen", b"seen"))
        transport.publish(outgoing("exact.here", b"a"))
        transport.publish([Outgoing("exact.queue", b"b", 7, True), Outgoing("exact.void", b"c", 8, True)])
        await eventually(lambda: ear.messages == [b"a", b"b"] and len(ear.undeliverable) == 3)
    assert ear.undeliverable == [("exact.nobody", 0), ("exact.nobody", 1), ("exact.void", 8)]
    await transport.aclose()


async def test_a_queue_is_not_drawn_for_a_member_that_is_gone_though_somebody_listens_to_all(redis_url: str) -> None:
    ear, transport = Ear(), open_backend(BackendSettings(url=redis_url, prefix="gone")).transport
    await transport.start(ear)
    transport.count_exactly()  # type: ignore[attr-defined]
    async with plain(redis_url) as client, watching(redis_url):
        await client.sadd("gone.queue", "gone.queue.killed")
        transport.publish([Outgoing("gone.queue", b"a", 7, True)])
        await eventually(lambda: ear.undeliverable == [("gone.queue", 7)])
        assert not await client.exists("gone.queue")
    await transport.aclose()
