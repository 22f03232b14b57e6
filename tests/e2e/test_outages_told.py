"""Why the link to a broker is down, and stays down: in the log, and in what a node says of itself."""

import logging
import sys
from pathlib import Path

import nats
import pytest
from nodes import lines_of, node

from catga.testing.servers import NatsServer, RedisServer
from catga.testing.waiting import eventually

JOINING = 2.0
"""The connect timeout: for so long after its start, a node whose link is down tries again to say its farewell."""
FORKED = Path(__file__).parent / "forked.py"


async def test_a_client_that_was_handed_in_and_gave_up_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    async def say_nothing(_: Exception) -> None: ...

    with NatsServer() as server:
        settings = {"max_reconnect_attempts": 1, "reconnect_time_wait": 0, "error_cb": say_nothing}
        client = await nats.connect(server.url, **settings)  # type: ignore[arg-type]
        async with node(server.url, "a", client=client, connect_timeout=JOINING) as a:
            server.kill()
            text = "the link to the broker is down for good: the NATS client that was handed in has closed: "
            await eventually(lambda: (a.not_ready or "").startswith(text))
            told = [r for r in caplog.records if r.message.startswith(text) and r.levelno == logging.ERROR]
            assert len(told) == 1


async def test_a_password_that_was_changed_is_told_as_the_cause(caplog: pytest.LogCaptureFixture) -> None:
    with NatsServer(user="u", password="old") as server:
        async with node(server.url, "a", connect_timeout=JOINING) as a:
            port = server.port
            server.kill()
            with NatsServer(user="u", password="new", port=port):
                await eventually(lambda: "Authorization Violation" in (a.not_ready or ""))
                text = f"nats://u:***@127.0.0.1:{port}: no connection yet: nats: 'Authorization Violation'"
                await eventually(lambda: text in [r.message for r in caplog.records if r.levelno == logging.WARNING])
                assert len([r for r in caplog.records if r.message == text and r.levelno == logging.WARNING]) == 1


async def test_a_redis_password_that_was_changed_is_told_as_the_cause() -> None:
    with RedisServer(password="old") as server:
        async with node(server.url, "a", connect_timeout=JOINING) as a:
            port = server.port
            server.kill()
            with RedisServer(password="new", port=port):
                await eventually(lambda: "refused the credentials" in (a.not_ready or ""))


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
@pytest.mark.parametrize("broker", ["nats_url", "redis_url"])
async def test_processes_forked_after_add_cluster_are_nodes_of_their_own(
    broker: str, request: pytest.FixtureRequest
) -> None:
    first, second = await lines_of(FORKED, request.getfixturevalue(broker))
    assert first != second
