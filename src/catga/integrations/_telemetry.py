"""What both exporters of telemetry share: the nodes that are observed, names, buckets, and text that can be encoded."""

import logging
import os
import re
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable

import msgspec

from catga.cluster import DistributedMediator
from catga.cluster.reading import Reading
from catga.node import NodeState

logger = logging.getLogger("catga.telemetry")

BUCKETS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0,
)  # fmt: skip
"""Seconds: the boundaries that the semantic conventions give, some for the quickest calls, and the default deadline."""
STATES = (NodeState.ALIVE, NodeState.SUSPECT, NodeState.DRAINING)
"""The states that a member may be in."""
HEALTHS = ("healthy", "degraded", "fenced", "closed")
LINGER = 300.0
"""Seconds for which a node that has ended is shown: its last counts may wait for the next export that long."""
MAX_TEXT = 8192
"""Characters of an error's text."""

_URL = re.compile(r"://(\S*)")
_QUERY = re.compile(r"([?&][^=&?]*)=[^&]*")
_SECRET = re.compile(r"pass|secret|token|auth|cred|key", re.IGNORECASE)


def clean(text: str) -> str:
    """Return `text` without lone surrogates, which no exporter can encode: by one of them it loses the whole batch."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
    return text


def text_of(value: object) -> str:
    """Return `value` as text that may leave the cluster: see `outward`."""
    try:
        text = str(value)
    except Exception:  # noqa: BLE001 - a `__str__` of the user's
        text = f"<{type(value).__qualname__}>"
    text = outward(text)
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


def outward(text: str) -> str:
    """Return `text` without lone surrogates, and with its URLs as logs show them: without passwords."""
    return clean(_URL.sub(_without_password, text) if "://" in text else text)


def _without_password(found: "re.Match[str]") -> str:
    """As `catga.backends.redact`, in a time that grows no faster than the text, which may be somebody's input."""
    before, at, host = found[1].rpartition("@")
    user, colon, _ = before.partition(":")
    shown = (f"{user}:***@" if colon else "***@") if at else ""
    return "://" + shown + _QUERY.sub(_without_secret, host)


def _without_secret(found: "re.Match[str]") -> str:
    return f"{found[1]}=***" if _SECRET.search(found[1]) else found[0]


class Observed:
    """The nodes whose metrics go to one registry or meter provider. It keeps none of them alive.

    A node is shown from the moment at which it is observed, and for `LINGER` seconds after its end has been seen. If
    several have one id, the one that runs is shown, or else the newest. The counts of those that have ended are added
    to its own, so that counters never go down.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._entries: list[_Entry] = []
        self._lock = threading.RLock()

    def add(self, cluster: DistributedMediator) -> None:
        """Observe `cluster` as well, once."""
        with self._lock:
            running = {r.node_id for r in self.read() if r.phase == "running"}
            if any(entry.cluster() is cluster for entry in self._entries):
                return
            if cluster.node_id in running:
                text = "two nodes of this process have the id %s: only the newest has metrics"
                logger.warning(text, cluster.node_id, extra={"catga_node_id": cluster.node_id})
            self._entries.append(_Entry(cluster))

    def read(self) -> list[Reading]:
        """Return what is to be exported now, sorted by id. Each node has another id."""
        with self._lock:
            now = self._clock()
            self._entries = [entry for entry in self._entries if entry.read(now)]
            shown = self._shown()
            return [shown[node_id].reading() for node_id in sorted(shown)]

    def _shown(self) -> "dict[str, _Entry]":
        """The entry for each id. One that has ended gives its counts to the one that is shown in its place."""
        shown: dict[str, _Entry] = {}
        for entry in sorted(self._entries, key=lambda entry: entry.rank):
            before = shown.get(entry.node_id)
            if before is not None and before.last is not None and before.last.phase == "ended":
                entry.before.update(before.last.events)
                entry.before.update(before.before)
                self._entries.remove(before)
            shown[entry.node_id] = entry
        return shown


class _Entry:
    def __init__(self, cluster: DistributedMediator) -> None:
        self.cluster = weakref.ref(cluster)
        self.last: Reading | None = None
        self.before: Counter[str] = Counter()
        """What was counted by former nodes of this id."""
        self._ended_at: float | None = None
        self._pid = os.getpid()

    @property
    def node_id(self) -> str:
        return "" if self.last is None else self.last.node_id

    @property
    def rank(self) -> int:
        """Those that have ended come first, and those that run last; else it is as they were added."""
        return ("ended", "new", "running").index("ended" if self.last is None else self.last.phase)

    def read(self, now: float) -> bool:
        """Look at the node. Returns whether there is something to show."""
        cluster = self.cluster()
        reading = None if cluster is None else cluster.read()
        if reading is not None:
            self.last = reading
        elif cluster is not None or self.last is None or self.last.phase == "new":
            return False
        else:
            self.last = Reading(node_id=self.last.node_id, phase="ended", events=self.last.events)
        if self.last.phase != "ended":
            self._pid = os.getpid()
            return True
        if self._ended_at is None:
            self._ended_at = now
        return now - self._ended_at < LINGER and self._pid == os.getpid()

    def reading(self) -> Reading:
        """What is exported: the last look, and what former nodes of this id have counted."""
        assert self.last is not None  # noqa: S101
        events = {name: count + self.before[name] for name, count in self.last.events.items()}
        return msgspec.structs.replace(self.last, node_id=clean(self.last.node_id), events=events)
