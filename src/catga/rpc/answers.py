"""The dedup window: what was answered lately, so that a repeated request gets the first answer.

A caller repeats a request (to the same incarnation of the node) when a link broke in mid-call, and cannot
know whether it arrived. The window tells: *running* (the answer will go to both), *answered* (here it is
again), *never seen* (run it), or *too long ago to tell*, which for a request that must not run twice is
"maybe executed".
"""

from collections import OrderedDict
from enum import Enum

from catga.rpc.wire import Fault, Reply

CallKey = tuple[str, int]
"""(reply_to, id of the first attempt): one request of one caller."""

MAX_CALLERS = 4096


class Seen(Enum):
    """What the window knows of a request that has no answer in it."""

    NEVER = "never"
    RUNNING = "running"
    FORGOTTEN = "forgotten"


class Answers:
    """The answers of the last calls, bounded by their number and their bytes.

    Args:
        entries: answers kept.
        size: bytes kept, in total.
    """

    def __init__(self, entries: int = 16_384, size: int = 16 * 1024 * 1024) -> None:
        self._entries = entries
        self._size = size
        self._bytes = 0
        self._done: OrderedDict[CallKey, Reply | Fault] = OrderedDict()
        self._running: dict[CallKey, list[int]] = {}
        self._forgotten: OrderedDict[str, int] = OrderedDict()  # caller → newest id that left the window

    def __contains__(self, key: CallKey) -> bool:
        """Whether the request `key` runs, or was answered lately."""
        return key in self._running or key in self._done

    def begin(self, key: CallKey) -> None:
        """The request `key` is admitted."""
        self._running[key] = []

    def abandon(self, key: CallKey) -> None:
        """The request `key` ended without an answer, and did not run."""
        self._running.pop(key, None)

    def look_up(self, key: CallKey, call_id: int) -> Reply | Fault | Seen:
        """What is known of a repeated request. While it runs, its answer will go to `call_id` too."""
        waiting = self._running.get(key)
        if waiting is not None:
            if call_id != key[1]:
                waiting.append(call_id)
            return Seen.RUNNING
        answer = self._done.get(key)
        if answer is not None:
            return answer
        return Seen.FORGOTTEN if key[1] <= self._forgotten.get(key[0], 0) else Seen.NEVER

    def end(self, key: CallKey, answer: Reply | Fault) -> list[int]:
        """The request `key` has its answer. Returns the ids of the repeats that wait for it too."""
        waiting = self._running.pop(key, [])
        self._done[key] = answer
        self._bytes += _size(answer)
        while len(self._done) > self._entries or self._bytes > self._size:
            (caller, call_id), old = self._done.popitem(last=False)
            self._bytes -= _size(old)
            self._forget(caller, call_id)
        return waiting

    def _forget(self, caller: str, call_id: int) -> None:
        newest = max(call_id, self._forgotten.pop(caller, 0))
        self._forgotten[caller] = newest
        if len(self._forgotten) > MAX_CALLERS:
            self._forgotten.popitem(last=False)


def _size(answer: Reply | Fault) -> int:
    return (len(answer.body) if type(answer) is Reply else 256) + 128
