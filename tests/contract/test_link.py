"""What a transport promises of its link, on brokers that are killed, restarted and frozen."""

import asyncio

import pytest

from catga.errors import ClusterError
from catga.testing import eventually
from catga.testing.contract import Bed
from catga.testing.servers import NatsServer, RedisServer, Server

pytestmark = pytest.mark.parametrize("kind", [NatsServer, RedisServer])


async def test_without_a_broker_nothing_is_sent_and_the_link_is_down(kind: type[Server]) -> None:
    async with kind() as server, Bed(server.url) as bed:
        ear = await bed.transport()
        await asyncio.to_thread(server.kill)
        await eventually(lambda: ear.links == [False])
        assert not ear.transport.is_up
        with pytest.raises(ClusterError):
            await ear.publish(bed.subject("inbox.b.1"), b"x")


async def test_after_a_restart_the_subscriptions_are_back_before_the_link_is_up(kind: type[Server]) -> None:
    """Also when the broker forgot everything. Twice, so that the second time is no worse."""
    async with kind() as server, Bed(server.url) as bed:
        sender, receiver = await bed.transport(), await bed.transport()
        await receiver.transport.subscribe(bed.subject("inbox.b.1"))
        for times in (1, 2):
            await asyncio.to_thread(server.restart)
            for ear in (sender, receiver):
                await eventually(lambda: ear.links == [False, True] * times)  # noqa: B023
            await sender.publish(bed.subject("inbox.b.1"), b"%d" % times)
            await eventually(lambda: b"%d" % times in receiver.messages)  # noqa: B023
        assert receiver.messages == [b"1", b"2"]
        assert sender.undeliverable == []


async def test_no_close_hangs_on_a_frozen_broker(kind: type[Server]) -> None:
    async with kind() as server, Bed(server.url) as bed:
        ear = await bed.transport()
        await ear.transport.subscribe(bed.subject("inbox.b.1"))
        server.freeze()
        try:
            async with asyncio.timeout(20):  # the bound of a hang, not a measurement
                await ear.transport.aclose()
        finally:
            server.thaw()
