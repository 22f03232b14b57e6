"""Sessions and the link: a server that is frozen, which takes bytes and says nothing, and looks from another thread."""

import asyncio
from types import SimpleNamespace

import pytest

from catga.backends.redis import session as module
from catga.backends.redis.connect import Connector, Wire
from catga.backends.redis.link import RedisLink
from catga.backends.redis.session import PING, Session
from catga.errors import ClusterError


async def test_a_server_that_leaves_two_questions_unanswered_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_INTERVAL", 0.05)
    heard: list[bytes] = []
    ended = asyncio.Event()

    async def frozen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(-1))
        writer.close()
        if len(heard) == 2:
            ended.set()

    async with asyncio.timeout(30), await asyncio.start_server(frozen, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        wires = [Wire(*await asyncio.open_connection("127.0.0.1", port)) for _ in range(2)]
        session = Session(*wires, lambda _channel, _payload: None, lambda _message, _reply: None)
        cause = await session.ended()
        await session.close()
        assert isinstance(cause, ClusterError)
        assert "silent" in str(cause)
        await ended.wait()
    hello = module.pack_command(("HELLO", 2))
    assert sorted(heard) == sorted([2 * hello, 2 * PING])


def test_a_session_may_end_between_two_looks_of_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    link = RedisLink(Connector("redis://localhost", {}), 1.0, "own")
    left = [SimpleNamespace(is_alive=True)]
    monkeypatch.setattr(RedisLink, "_session", property(lambda _: left.pop() if left else None), raising=False)
    assert [link.is_up, link.is_up] == [True, False]
