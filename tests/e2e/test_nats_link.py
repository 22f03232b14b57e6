"""The NATS link when the server stops reading."""

import asyncio

import pytest
from nodes import Ear, outgoing

from catga.abc import BackendSettings
from catga.backends.nats import open_backend
from catga.errors import ClusterError
from catga.testing.servers import NatsServer
from catga.testing.waiting import eventually


async def test_a_frozen_server_with_a_full_buffer_is_noticed_and_blocks_nobody_for_ever() -> None:
    ear = Ear()
    with NatsServer() as server:
        backend = open_backend(BackendSettings(url=server.url))
        transport = backend.transport
        await transport.start(ear)
        try:
            await transport.subscribe("s")
            server.freeze()
            async with asyncio.timeout(60):
                while transport.publish(outgoing("nobody", bytes(500_000))):
                    pass
                waiting = asyncio.create_task(transport.drain())
                await eventually(lambda: ear.links == [False], 60)
                await asyncio.wait([waiting])
            with pytest.raises(ClusterError):
                transport.publish(outgoing("s", b"lost"))
            server.thaw()
            await eventually(lambda: ear.links == [False, True], 60)
            transport.publish(outgoing("s", b"again"))
            await eventually(lambda: b"again" in ear.messages)
        finally:
            await transport.aclose()
        if not waiting.cancelled() and (error := waiting.exception()) is not None:
            assert isinstance(error, ClusterError)
