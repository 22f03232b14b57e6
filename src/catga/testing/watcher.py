"""The process that ends brokers when the process that started them is gone; it deletes their folders, too.

`catga.testing.watching` runs this file as a script, as it must begin quickly and needs nothing of catga. Its standard
input is a pipe whose other end its parent has: the end of the pipe is the end of the parent, however it died. A line
``+PID FOLDER`` says that a broker works in that folder (PID is 0 while it does not run), ``-0 FOLDER`` that the folder
is deleted.
"""

import os
import select
import signal
import sys
import time

TRIES = 100
PAUSE = 0.1


def follow(stream: int, parent: int) -> dict[str, int]:
    """Read until the parent is gone; return the folders that are left, each with the id of its process."""
    watched: dict[str, int] = {}
    rest = b""
    while True:
        is_alone = os.getppid() != parent  # and yet a process that the parent forked may have the pipe open
        if not select.select([stream], [], [], 0.0 if is_alone else 1.0)[0]:
            if is_alone:
                break
            continue
        data = os.read(stream, 65_536)
        if not data:
            break
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            pid, _, folder = line[1:].partition(b" ")
            if line.startswith(b"+"):
                watched[os.fsdecode(folder)] = int(pid)
            else:
                watched.pop(os.fsdecode(folder), None)
    return watched


def processes_of(folder: str, pid: int) -> list[int]:
    """Return the processes that work in `folder`. Where the system does not tell, that is the process `pid`."""
    if not os.path.isdir("/proc/self/fd"):  # noqa: PTH112 - pathlib costs more than all the rest
        return [pid] if pid and _exists(pid) else []
    names = {folder, f"{folder} (deleted)"}
    return [int(name) for name in os.listdir("/proc") if name.isdecimal() and _directory_of(name) in names]  # noqa: PTH208


def end(folder: str, pid: int) -> None:
    """Kill what works in `folder`, and delete it. A process that was being started may appear in it yet."""
    import shutil  # costs more than all the rest, and is rarely needed

    quiet = 0
    for _ in range(TRIES):
        found = processes_of(folder, pid)
        for each in found:
            _kill(each)
        shutil.rmtree(folder, ignore_errors=True)
        quiet = 0 if found or os.path.isdir(folder) else quiet + 1  # noqa: PTH112
        if quiet == 2:
            return
        time.sleep(PAUSE)


def _directory_of(pid: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/cwd")  # noqa: PTH115
    except OSError:
        return ""


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def _kill(pid: int) -> None:
    try:  # noqa: SIM105 - contextlib costs more
        os.kill(pid, signal.SIGKILL)
    except OSError:
        pass  # it has ended by itself


def main() -> None:
    """Outlive what ends the parent, and then clean up behind it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for folder, pid in follow(0, int(sys.argv[1])).items():
        end(folder, pid)


if __name__ == "__main__":
    main()
