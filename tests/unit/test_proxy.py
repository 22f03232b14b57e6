"""The proxy holds, redirects, and leaves nothing behind, whenever it is closed."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from catga.testing.proxy import Proxy


@asynccontextmanager
async def echo(mark: bytes = b"") -> AsyncGenerator[str]:
    """The URL of a server that gives back what it gets, with `mark` before each piece."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(mark + data)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_held_bytes_go_on_in_order_once_the_proxy_heals() -> None:
    async with echo() as url, Proxy(url) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        proxy.hold()
        writer.write(b"first ")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await reader.read(1)
        writer.write(b"second")
        proxy.heal()
        assert await reader.readexactly(12) == b"first second"
        writer.transport.abort()


async def test_a_proxy_that_leads_elsewhere_keeps_the_connections_that_exist() -> None:
    async with echo(b"1") as first, echo(b"2") as second, Proxy(first) as proxy:
        old, to_first = await asyncio.open_connection("127.0.0.1", proxy.port)
        to_first.write(b"x")
        assert await old.readexactly(2) == b"1x"
        proxy.lead_to(second)
        new, to_second = await asyncio.open_connection("127.0.0.1", proxy.port)
        to_first.write(b"y")
        to_second.write(b"y")
        assert (await old.readexactly(2), await new.readexactly(2)) == (b"1y", b"2y")
        to_first.transport.abort()
        to_second.transport.abort()


@pytest.mark.parametrize("turns", range(10))
async def test_a_proxy_that_is_closed_while_a_client_leaves_closes_both_ends(turns: int) -> None:
    async with echo() as url:
        async with Proxy(url) as proxy:
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(b"x")
            assert await reader.read(1) == b"x"
            ends = list(proxy._writers)
            assert len(ends) == 2
            writer.transport.abort()
            for _ in range(turns):
                await asyncio.sleep(0)
        assert all(end.transport.is_closing() for end in ends)


async def test_a_proxy_may_be_used_again() -> None:
    async with echo() as url:
        proxy = Proxy(url)
        for _ in range(2):
            async with proxy:
                reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
                writer.write(b"hello")
                assert await reader.readexactly(5) == b"hello"
                writer.transport.abort()
