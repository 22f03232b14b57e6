"""What the processes of a history write down while they run, one JSON object a line, and how it is read back.

Every time is CLOCK_BOOTTIME in seconds: one clock for all processes, which goes on while they are stopped.
"""

import os
import time
from pathlib import Path
from typing import Any

import msgspec


def now() -> float:
    """Seconds by the clock that all processes share."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Record(msgspec.Struct, frozen=True, kw_only=True, tag=True, omit_defaults=True):
    """Something that happened at the time `at`."""

    at: float


class Start(Record, frozen=True, kw_only=True, tag=True):
    """A handler began, before it did anything. `life` is its process."""

    request: str
    node: str
    life: int
    service: str = "default"


class End(Record, frozen=True, kw_only=True, tag=True):
    """A handler ended; `how` is ``done`` or the name of what it raised."""

    request: str
    node: str
    how: str = "done"


class Part(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one node answered to a request sent to all: a value, or an error."""

    value: str = ""
    code: str = ""
    execution: str = ""


class Invoke(Record, frozen=True, kw_only=True, tag=True):
    """A call was made; `life` is the caller's process."""

    request: str
    kind: str
    timeout: float
    caller: str
    life: int


class Outcome(Record, frozen=True, kw_only=True, tag=True):
    """A call ended: with a value, or with an error (`code` is ``cancelled`` if its caller cancelled it).

    `parts` has what each node said to a request sent to all.
    """

    request: str
    value: str = ""
    code: str = ""
    execution: str = ""
    text: str = ""
    nodes: str = ""
    attempts: int = 0
    parts: dict[str, Part] = {}


class Life(Record, frozen=True, kw_only=True, tag=True):
    """A process is a member by this incarnation from now on."""

    node: str
    life: int
    incarnation: int
    service: str = ""


class Gone(Record, frozen=True, kw_only=True, tag=True):
    """A process was ended, or began to end itself: from now on it is no member."""

    node: str
    life: int


class Left(Record, frozen=True, kw_only=True, tag=True):
    """A process that was asked to end did so, with this exit status, after so many seconds."""

    node: str
    status: int
    seconds: float


class Failed(Record, frozen=True, kw_only=True, tag=True):
    """A process could not join."""

    node: str
    text: str


class Change(Record, frozen=True, kw_only=True, tag=True):
    """A watcher of `caller` was told a change."""

    caller: str
    what: str
    node: str
    incarnation: int
    reason: str = ""


class Seen(Record, frozen=True, kw_only=True, tag=True):
    """The view of `caller` at the end of the calm: node id → incarnation and state."""

    caller: str
    nodes: dict[str, tuple[int, str]]


class Probe(Record, frozen=True, kw_only=True, tag=True):
    """The calls that `caller` made at the end of the calm, and how those that failed did."""

    caller: str
    sent: int
    errors: list[str]


class Stall(Record, frozen=True, kw_only=True, tag=True):
    """The event loop of a process did not turn from `at` to `until`."""

    node: str
    until: float


class Fault(Record, frozen=True, kw_only=True, tag=True):
    """What was done to `target` (a node or ``broker``) from `at` to `until`, when it was undone and well again."""

    target: str
    what: str
    until: float


class Mark(Record, frozen=True, kw_only=True, tag=True):
    """A moment of the whole history: ``begin``, ``calm`` (no load and no faults from now on), ``end``."""

    what: str


AnyRecord = Start | End | Invoke | Outcome | Life | Gone | Left | Failed | Change | Seen | Probe | Stall | Fault | Mark
_decode = msgspec.json.Decoder(AnyRecord).decode
_encode = msgspec.json.Encoder().encode


class Log:
    """Appends records to a file, each by one write, so that a killed process loses none."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, record: Record) -> None:
        os.write(self._file, _encode(record) + b"\n")


def read(folder: Path) -> list[Any]:
    """All records of this folder, in the order of time. A last line that a kill cut short is left out."""
    lines = (line for path in folder.glob("*.jsonl") for line in path.read_bytes().split(b"\n")[:-1])
    return sorted((_decode(line) for line in lines), key=lambda record: record.at)
