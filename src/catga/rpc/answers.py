"""The dedup window: what was answered lately, so that a repeated request gets the first answer.

A caller repeats a request (to the same incarnation of the node) when a link broke in mid-call, and cannot
know whether it arrived. The window tells: *answered* (here it is again), *never seen* (run it, unless it runs now),
or *too long ago to tell*, which for a request that must not run twice is "maybe executed".

Each batch of a caller names the oldest of its calls that has not ended. Nobody asks for the answers to those before
it, so they leave first: as long as callers get their answers the window holds little more than what is under way.
"""

from collections import OrderedDict, deque
from enum import Enum

from catga.rpc.wire import Fault, Reply

CallKey = tuple[str, int]
"""(reply_to, id of the first attempt): one request of one caller."""

MAX_CALLERS = 4096
ENTRY = 128
"""Bytes of an answer besides its body; a fault counts as two."""
GENERATION = 256
"""Answers that leave the window together: to forget costs a call next to nothing."""


class Seen(Enum):
    """What the window knows of a request that has no answer in it."""

    NEVER = "never"
    FORGOTTEN = "forgotten"


class Caller:
    """What a node remembers of one that calls it."""

    __slots__ = ("forgotten", "newest", "oldest", "reply_to")

    def __init__(self, reply_to: str) -> None:
        self.reply_to = reply_to
        self.newest = 0
        """Id of the newest of its calls that came: one with a greater id came never before."""
        self.oldest = 0
        """Its calls with smaller ids have ended."""
        self.forgotten = 0
        """The greatest id whose answer left the window although the caller might ask for it."""


class _Generation(dict[CallKey, Reply | Fault]):
    __slots__ = ("size",)

    def __init__(self) -> None:
        super().__init__()
        self.size = 0  # bytes


class Answers:
    """The answers of the last calls, bounded by their number and their bytes.

    Args:
        entries: answers kept.
        size: bytes kept, in total.
    """

    def __init__(self, entries: int = 16_384, size: int = 16 * 1024 * 1024) -> None:
        self._generations = max(entries // GENERATION, 2)
        self._size = size
        self._bytes = 0  # in all but the youngest generation
        self._youngest = _Generation()
        self._older: deque[_Generation] = deque()
        self._callers: OrderedDict[str, Caller] = OrderedDict()

    def __len__(self) -> int:
        return len(self._youngest) + sum(map(len, self._older))

    def caller(self, reply_to: str) -> Caller:
        """What is remembered of this caller, who calls now. The callers that called last are remembered."""
        callers = self._callers
        caller = callers.get(reply_to)
        if caller is None:
            caller = callers[reply_to] = Caller(reply_to)
            if len(callers) > MAX_CALLERS:
                callers.popitem(last=False)
        else:
            callers.move_to_end(reply_to)
        return caller

    def ended(self, reply_to: str, oldest: int) -> None:
        """Of this caller's calls, those with ids below `oldest` have ended."""
        caller = self._callers.get(reply_to)
        if caller is not None:
            caller.oldest = oldest

    def look_up(self, key: CallKey) -> Reply | Fault | Seen:
        """What is known of a repeated request."""
        for generation in (self._youngest, *reversed(self._older)):
            if key in generation:
                return generation[key]
        caller = self._callers.get(key[0])
        return Seen.FORGOTTEN if caller is not None and key[1] <= caller.forgotten else Seen.NEVER

    def keep(self, key: CallKey, answer: Reply | Fault) -> None:
        """The request `key` has its answer."""
        youngest = self._youngest
        youngest[key] = answer
        youngest.size += ENTRY + (len(answer.body) if type(answer) is Reply else ENTRY)
        if len(youngest) >= GENERATION or self._bytes + youngest.size > self._size:
            self._begin_generation()

    def _begin_generation(self) -> None:
        older, callers = self._older, self._callers
        older.append(self._youngest)
        self._bytes += self._youngest.size
        self._youngest = _Generation()
        while older:
            oldest = older[0]
            is_over = len(older) >= self._generations or self._bytes > self._size
            for reply_to, call_id in oldest:
                caller = callers.get(reply_to)
                if caller is None or call_id < caller.oldest:
                    continue
                if not is_over:
                    return
                caller.forgotten = max(caller.forgotten, call_id)
            older.popleft()
            self._bytes -= oldest.size
