"""Ports of 127.0.0.1: a free one, and who has one that is not."""

import errno
import os
import socket
from contextlib import suppress
from pathlib import Path

__all__ = ["free_port", "is_taken", "may_be_of", "owner_of"]

HOST = "127.0.0.1"
_TABLES = ("/proc/net/tcp", "/proc/net/tcp6")
_LISTEN = "0A"


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def is_taken(port: int) -> bool:
    """Whether a server could not listen on `port`."""
    with socket.socket() as probe:
        if os.name == "posix":  # as servers do: the connections of a server that is gone do no harm
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen()
        except OSError as error:
            return error.errno == errno.EADDRINUSE
        return False


def may_be_of(process: int, port: int) -> bool:
    """Whether `process` listens on `port`, or the system does not tell: only Linux does."""
    if not Path(_TABLES[0]).exists():
        return True
    return _has(Path(f"/proc/{process}"), _sockets_at(port, listening=True))


def owner_of(port: int) -> str:
    """Describe the process that has `port`, for an error. Only Linux tells, and only of the user's own processes."""
    sockets = _sockets_at(port)
    for process in Path("/proc").glob("[0-9]*") if sockets else ():
        with suppress(OSError):
            if _has(process, sockets):
                command = (process / "cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
                return f"process {process.name} ({Path(command).name})"
    return "another process"


def _sockets_at(port: int, *, listening: bool = False) -> set[str]:
    """The sockets of `port`, as they are named in the folders of the processes that have them."""
    found: set[str] = set()
    for table in _TABLES:
        with suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                _, local, _, state, _, _, _, _, _, inode, *_ = line.split()
                if int(local.rpartition(":")[2], 16) == port and (state == _LISTEN or not listening):
                    found.add(f"socket:[{inode}]")
    return found


def _has(process: Path, sockets: set[str]) -> bool:
    return any(_target(link) in sockets for link in (process / "fd").iterdir())


def _target(link: Path) -> str:
    with suppress(OSError):
        return str(link.readlink())
    return ""
