"""The proxy leaves nothing behind, whenever it is closed."""

import asyncio

import pytest

from catga.testing.proxy import Proxy


@pytest.mark.parametrize("turns", range(10))
async def test_a_proxy_that_is_closed_while_a_client_leaves_closes_both_ends(turns: int) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with Proxy(f"nats://127.0.0.1:{port}") as proxy:
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(b"x")
            assert await reader.read(1) == b"x"
            ends = list(proxy._writers)
            assert len(ends) == 2
            writer.transport.abort()
            for _ in range(turns):
                await asyncio.sleep(0)
        assert all(end.transport.is_closing() for end in ends)
