"""A socket that is lost while commands wait for it. Python 3.12.1's `writelines` raises a TypeError then."""

import asyncio
from typing import Any

import pytest
from nats.aio.client import Client

from catga.backends.nats.client import bounded
from catga.backends.nats.direct import DirectClient
from catga.errors import ClusterError
from catga.testing.servers import NatsServer


async def lose_the_socket(client: Any) -> None:
    """With a command that waits for it, before nats-py's reading has noticed."""
    client._transport._io_writer.transport.abort()
    client._flusher_task.cancel()  # it would take the command
    await asyncio.sleep(0)  # connection_lost
    client._pending.append(b"SUB lost  9\r\n")
    client._pending_data_size += len(client._pending[-1])


async def listening(client: Client) -> Any:
    async def ignore(_: object) -> None: ...

    subscription: Any = await client.subscribe("s", cb=ignore)
    await client.flush()
    return subscription


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
async def test_closing_goes_to_its_end(turns: int) -> None:
    """Whenever the socket is lost: before, or some turns of the event loop after it began."""
    with NatsServer() as server:
        client: Any = DirectClient()
        await client.connect(server.url)
        subscription = await listening(client)
        closing = asyncio.create_task(client.close()) if turns else None
        for _ in range(turns - 1):
            await asyncio.sleep(0)
        await lose_the_socket(client)
        await (closing or client.close())
        await asyncio.wait([subscription._wait_for_msgs_task], timeout=10)
        assert subscription._wait_for_msgs_task.done()
        assert not client._subs


async def test_a_command_to_it_is_a_plain_error() -> None:
    with NatsServer() as server:
        client: Any = DirectClient()
        await client.connect(server.url)
        await lose_the_socket(client)
        with pytest.raises(ClusterError, match="subscribe failed"):
            await bounded(listening(client), server.url, "subscribe")
        await client.close()


async def test_whatever_a_client_raises_is_a_cluster_error() -> None:
    async def broken() -> None:
        raise TypeError("'NoneType' object is not callable")

    with pytest.raises(ClusterError, match="nats://a: subscribe failed: TypeError"):
        await bounded(broken(), "nats://a", "subscribe")
    assert await bounded(broken(), "nats://a", "close", quiet=True) is None


async def test_our_own_errors_stay_what_they_are() -> None:
    own = ClusterError("forbidden")

    async def refused() -> None:
        raise own

    with pytest.raises(ClusterError) as raised:
        await bounded(refused(), "nats://a", "subscribe")
    assert raised.value is own
