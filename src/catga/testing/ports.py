"""Ports of 127.0.0.1: a free one, and who has one that is not."""

import errno
import os
import socket
from contextlib import suppress
from pathlib import Path

__all__ = ["free_port", "is_taken", "owner_of"]

HOST = "127.0.0.1"
_TABLES = ("/proc/net/tcp", "/proc/net/tcp6")


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


def owner_of(port: int) -> str:
    """Describe the process that has `port`, for an error. Only Linux tells, and only of the user's own processes."""
    inodes = {f"socket:[{inode}]" for inode in _sockets_at(port)}
    for process in Path("/proc").glob("[0-9]*") if inodes else ():
        with suppress(OSError):
            if any(_target(link) in inodes for link in (process / "fd").iterdir()):
                command = (process / "cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
                return f"process {process.name} ({Path(command).name})"
    return "another process"


def _sockets_at(port: int) -> list[str]:
    found: list[str] = []
    for table in _TABLES:
        with suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                _, local, _, _, _, _, _, _, _, inode, *_ = line.split()
                if int(local.rpartition(":")[2], 16) == port and inode != "0":
                    found.append(inode)
    return found


def _target(link: Path) -> str:
    with suppress(OSError):
        return str(link.readlink())
    return ""
