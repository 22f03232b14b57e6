"""Brokers do not outlive the process that started them: a small process, the watcher, sees to that.

It is started with the first broker of a process and told of each. SIGKILL, ``os._exit`` and signals that nobody
handles run no clean-up here, but all of them close the pipe to the watcher.
"""

import atexit
import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

from catga.testing import watcher

__all__ = ["forget", "watch"]

PATIENCE = 5.0


class _Watching:
    """This process's end of the pipe. A forked process has none, and starts a watcher if it starts brokers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe = -1
        self._watched: dict[Path, int] = {}  # each with the id of its broker

    def watch(self, folder: Path, pid: int) -> None:
        with self._lock:
            self._watched[folder] = pid
            self._tell(b"+%d %s\n" % (pid, os.fsencode(folder)))

    def forget(self, folder: Path) -> None:
        with self._lock:
            self._watched.pop(folder, None)
            self._tell(b"-0 %s\n" % os.fsencode(folder))

    def close(self) -> None:
        """Let the watcher end, at the end of this process."""
        with self._lock:
            if self._process is not None:
                self._part()
                self._watched.clear()

    def lose(self) -> None:
        """Give up what a forked process has of its parent's."""
        self._lock = threading.Lock()  # another thread of the parent may have had it
        self._watched = {}
        if self._process is not None:
            self._process.returncode = 0  # it is no child of this process, and nobody need be warned that it runs
            self._process = None
            with suppress(OSError):
                os.close(self._pipe)

    def _tell(self, line: bytes) -> None:
        if self._process is not None:
            try:
                os.write(self._pipe, line)
            except BrokenPipeError:
                self._part()  # somebody killed it
            else:
                return
        if self._watched and sys.executable:  # empty where Python is embedded
            self._start()

    def _start(self) -> None:
        reader, self._pipe = os.pipe()
        try:
            command = [sys.executable, "-I", "-S", watcher.__file__, str(os.getpid())]
            self._process = subprocess.Popen(
                command,
                stdin=reader,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,  # a Ctrl-C, or the end of a terminal, is for its parent
            )
        except BaseException:
            os.close(self._pipe)
            raise
        finally:
            os.close(reader)
        for folder, pid in self._watched.items():
            os.write(self._pipe, b"+%d %s\n" % (pid, os.fsencode(folder)))

    def _part(self) -> None:
        assert self._process is not None
        os.close(self._pipe)
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.returncode = 0  # frozen, perhaps: it ends when it can
        self._process = None


_watching = _Watching()


def watch(folder: Path, pid: int = 0) -> None:
    """If this process dies, let the broker that works in `folder` die, and delete the folder.

    Args:
        pid: of the broker; 0 while it does not run.
    """
    if os.name == "posix":
        _watching.watch(folder, pid)


def forget(folder: Path) -> None:
    """Take note that the broker in `folder` has ended and that its folder is deleted."""
    if os.name == "posix":
        _watching.forget(folder)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_watching.lose)
atexit.register(_watching.close)
