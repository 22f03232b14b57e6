"""The brokers that tests start end with the process that started them, and not before."""

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from catga.errors import ClusterError
from catga.testing.servers import RedisServer
from catga.testing.waiting import eventually

OWNER = """
import os, signal, sys, time
from catga.testing.servers import NatsServer, RedisServer

servers = [NatsServer(jetstream=True).start(), RedisServer().start()]
servers[0].freeze()
print(*(server.pid for server in servers), *(server.folder for server in servers), flush=True)
{end}
time.sleep(600)
"""
FORKED = """
if {fork} == 0:  # has all that its parent has open
    time.sleep(600)
os.kill(os.getpid(), signal.SIGKILL)
"""

WITHOUT_WATCHER = """
from catga.testing import watching
watcher = watching._watching._process
os.kill(watcher.pid, signal.SIGKILL)
watcher.wait()
servers[1].restart()
print(servers[1].pid, flush=True)
os._exit(1)
"""


def lives(pid: int) -> bool:
    """Whether a process runs; one that nobody waited for does not."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


class Owner(NamedTuple):
    process: subprocess.Popen[str]
    pids: list[int]
    folders: list[Path]


@contextmanager
def owner(end: str = "") -> Iterator[Owner]:
    """A process that starts a frozen broker and one that works, and then does what `end` says."""
    command = [sys.executable, "-c", OWNER.format(end=end)]
    pids: list[int] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        try:
            first, second, *folders = process.stdout.readline().split()
            pids += [int(first), int(second)]
            yield Owner(process, pids, [Path(folder) for folder in folders])
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            for pid in pids:
                if lives(pid):
                    os.kill(pid, signal.SIGKILL)


async def is_cleaned_up(owned: Owner) -> None:
    await eventually(lambda: not any(lives(pid) for pid in owned.pids), 30.0, what="brokers end")
    await eventually(lambda: not any(folder.exists() for folder in owned.folders), 30.0, what="folders are deleted")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
async def test_brokers_end_with_a_process_that_a_signal_ends(number: signal.Signals) -> None:
    with owner() as owned:
        assert all(lives(pid) for pid in owned.pids)
        owned.process.send_signal(number)
        await is_cleaned_up(owned)


async def test_brokers_end_with_a_process_that_ends_without_a_clean_up() -> None:
    with owner("os._exit(1)") as owned:
        await is_cleaned_up(owned)


@pytest.mark.parametrize("fork", ["os.fork()", "__import__('ctypes').CDLL(None).fork()"], ids=["Python", "C"])
async def test_brokers_end_with_their_process_and_not_with_one_that_was_forked_from_it(fork: str) -> None:
    with owner(FORKED.format(fork=fork)) as owned:
        await is_cleaned_up(owned)


async def test_brokers_end_with_a_process_whose_first_watcher_was_killed() -> None:
    with owner(WITHOUT_WATCHER) as owned:
        assert owned.process.stdout is not None
        owned.pids.append(int(owned.process.stdout.readline()))
        await is_cleaned_up(owned)


async def test_a_broker_outlives_the_thread_that_started_it() -> None:
    server = RedisServer()
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()
    try:
        assert server.pid is not None
        assert server.start().listens()
    finally:
        server.stop()


async def test_a_broker_ends_whose_start_is_cancelled() -> None:
    server = Silent()
    starting = asyncio.ensure_future(server.__aenter__())
    await eventually(lambda: server.pid)
    pid = server.pid
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert server.pid is None
    assert not lives(pid or 0)
    assert not server.spawned_in.exists()


async def test_who_stops_a_broker_waits_for_its_restart() -> None:
    with RedisServer() as server:
        restarting = asyncio.ensure_future(asyncio.to_thread(server.restart))
        await asyncio.sleep(0)
        await asyncio.to_thread(server.stop)
        await restarting
        await asyncio.to_thread(server.stop)
        assert server.pid is None


@pytest.mark.parametrize("end", ["sys.exit(0)", "del server; gc.collect(); sys.exit(0)", "server.stop(); sys.exit(0)"])
def test_a_forked_process_leaves_the_broker_alone(end: str) -> None:
    code = f"""
import gc, os, sys
from catga.testing.servers import NatsServer
server = NatsServer(jetstream=True).start()
pid = os.fork()
if pid == 0:
    {end}
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
assert server.pid
assert server.folder.is_dir()
server.restart().stop()
"""
    subprocess.run([sys.executable, "-X", "dev", "-W", "error", "-c", code], check=True, timeout=60)


def in_a_fork(work: Callable[[], None]) -> None:
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    assert process.exitcode == 0


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_process_of_multiprocessing_leaves_the_broker_alone_and_may_have_one_itself() -> None:
    with RedisServer() as server:

        def work() -> None:
            with server:
                assert server.pid
            for refused in (server.kill, server.terminate, server.restart, server.freeze, server.thaw):
                with pytest.raises(ClusterError, match="forked"):
                    refused()
            with RedisServer() as other:
                assert other.pid

        in_a_fork(work)
        assert server.pid is not None
        assert server.folder.is_dir()
        server.freeze()
        server.thaw()


class Silent(RedisServer):
    """A server that is never ready."""

    spawned_in: Path

    def listens(self) -> bool:
        self.spawned_in = self.folder
        return False
