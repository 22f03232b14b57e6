"""A TCP proxy that misbehaves: put it between a node and its broker."""

import asyncio
from contextlib import suppress
from typing import Self
from urllib.parse import urlsplit, urlunsplit

__all__ = ["Proxy"]

CHUNK = 65_536


class Proxy:
    """Forwards the connections made to `port` of 127.0.0.1; use it with ``async with``.

    Args:
        url: the broker's; `url` of the proxy is the same with the proxy's address.

    Attributes:
        delay: seconds that each chunk is late, in both directions; the order stays.
        chunk: bytes that are passed on at once, at most.
        port: where it listens, the same until the end.
    """

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        self.delay = 0.0
        self.chunk = CHUNK
        self.port = 0
        self._passing = asyncio.Event()
        self._passing.set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._refusing = False
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tainted: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        """For a client: the broker's, credentials included, with the proxy's address."""
        credentials, at, _ = self._parts.netloc.rpartition("@")
        return urlunsplit(self._parts._replace(netloc=f"{credentials}{at}127.0.0.1:{self.port}"))

    @property
    def connections(self) -> int:
        """Clients that are connected."""
        return len(self._serving)

    async def __aenter__(self) -> Self:
        self._refusing = False  # it may be entered again
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self._refusing = True
        for task in list(self._serving):
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def half_open(self) -> None:
        """Swallow all bytes, both ways, while the connections stay; new ones are accepted and hear nothing."""
        self._passing.clear()
        self._tainted |= self._writers

    def hold(self) -> None:
        """Keep all bytes back, both ways; `heal` lets them go on, in order. So does a network that drops packets for
        a while, if neither end gives up its connection."""
        self._flowing.clear()

    def lead_to(self, url: str) -> None:
        """Forward new connections to another server, as a name does after a failover; those that exist stay."""
        self._parts = urlsplit(url)

    def cut(self) -> None:
        """Reset all connections, and refuse new ones."""
        self._refusing = True
        self.drop()

    def drop(self) -> None:
        """Reset all connections; new ones are served."""
        for writer in self._writers:
            writer.transport.abort()

    def heal(self) -> None:
        """Serve new connections again, and let held bytes go on. Connections from which bytes were swallowed are
        reset: their streams have holes."""
        self._refusing = False
        self.delay = 0.0
        self._passing.set()
        self._flowing.set()
        for writer in self._tainted & self._writers:
            writer.transport.abort()
        self._tainted.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # a task of the server's must not end cancelled: asyncio would complain
        finally:
            self._serving.discard(task)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            return
        behind, beyond = await asyncio.open_connection(self._parts.hostname, self._parts.port)
        ends = {writer, beyond}
        self._writers |= ends
        if not self._passing.is_set():
            self._tainted |= ends
        pipes = [asyncio.create_task(self._pipe(reader, beyond)), asyncio.create_task(self._pipe(behind, writer))]
        try:
            await asyncio.wait(pipes, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._writers -= ends
            self._tainted -= ends
            beyond.transport.abort()  # before anything is awaited: closing the proxy cancels this, too
            for pipe in pipes:
                pipe.cancel()
            await asyncio.gather(*pipes, return_exceptions=True)

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(self.chunk):
                await asyncio.sleep(self.delay)
                await self._flowing.wait()
                if self._passing.is_set():
                    writer.write(data)
                    await writer.drain()
