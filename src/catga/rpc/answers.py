"""The dedup window: what was answered lately, so that a repeated request gets the first answer.

A caller repeats a request (to the same incarnation of the node) when a link broke in mid-call, and cannot
know whether it arrived. The window tells: *answered* (here it is again), *never seen* (run it, unless it runs now),
or *too long ago to tell*, which for a request that must not run twice is "maybe executed".
"""

from collections import OrderedDict
from enum import Enum

from catga.rpc.wire import Fault, Reply

CallKey = tuple[str, int]
"""(reply_to, id of the first attempt): one request of one caller."""

MAX_CALLERS = 4096
ENTRY = 128
"""Bytes of an answer besides its body; a fault counts as two."""
SPARE = 32
"""What is over a bound is forgotten together with one part in so many below it: not one answer a call."""


class Seen(Enum):
    """What the window knows of a request that has no answer in it."""

    NEVER = "never"
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
        self.kept: dict[CallKey, Reply | Fault] = {}
        """The answers, by request."""
        self._forgotten: OrderedDict[str, int] = OrderedDict()  # caller → newest id that left the window

    def look_up(self, key: CallKey) -> Reply | Fault | Seen:
        """What is known of a repeated request."""
        answer = self.kept.get(key)
        if answer is not None:
            return answer
        return Seen.FORGOTTEN if key[1] <= self._forgotten.get(key[0], 0) else Seen.NEVER

    def keep(self, key: CallKey, answer: Reply | Fault) -> None:
        """The request `key` has its answer."""
        self.kept[key] = answer
        self._bytes += _size(answer)
        if len(self.kept) > self._entries or self._bytes > self._size:
            self._make_room()

    def _make_room(self) -> None:
        kept = self.kept
        entries, size = (bound - bound // SPARE for bound in (self._entries, self._size))
        gone: list[CallKey] = []
        newest: dict[str, int] = {}
        for key, answer in kept.items():  # once: a dictionary's front is slow to find after many removals there
            if len(kept) - len(gone) <= entries and self._bytes <= size:
                break
            gone.append(key)
            self._bytes -= _size(answer)
            newest[key[0]] = max(key[1], newest.get(key[0], 0))
        for key in gone:
            del kept[key]
        for caller, call_id in newest.items():
            self._forget(caller, call_id)

    def _forget(self, caller: str, call_id: int) -> None:
        self._forgotten[caller] = max(call_id, self._forgotten.pop(caller, 0))
        if len(self._forgotten) > MAX_CALLERS:
            self._forgotten.popitem(last=False)


def _size(answer: Reply | Fault) -> int:
    return ENTRY + (len(answer.body) if type(answer) is Reply else ENTRY)
