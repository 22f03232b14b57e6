"""The dedup window: what was answered lately, so that a repeated request gets the first answer.

A caller repeats a request (to the same incarnation of the node) when a link broke in mid-call, and cannot
know whether it arrived. The window tells: *answered* (here it is again), *never seen* (run it, unless it runs now),
or *too long ago to tell*, which for a request that must not run twice is "maybe executed".

Each batch of a caller names the oldest of its calls that has not ended. Nobody asks for the answers to those before
it, so they leave first: as long as callers get their answers the window holds little more than what is under way.
"""

from collections import OrderedDict
from collections.abc import Mapping
from enum import Enum
from math import inf

import msgspec

from catga.rpc.wire import Fault, Reply

Answer = Reply | Fault
CallKey = tuple[str, int]
"""(reply_to, id of the first attempt): one request of one caller."""

MAX_CALLERS = 16_384
DOUBT = 60.0
"""Seconds after its last call for which a caller may be expected to repeat one: twice the usual deadline."""
ENTRY = 128
"""Bytes of an answer besides its body."""
GENERATION = 256
"""Answers that leave the window together: to forget costs a call next to nothing."""
GENERATION_SIZE = 1024 * 1024
"""Bytes of them, at most; and one answer."""


class Seen(Enum):
    """What the window knows of a request that has no answer in it."""

    NEVER = "never"
    FORGOTTEN = "forgotten"


class Caller:
    """What a node remembers of one that calls it."""

    __slots__ = ("called_at", "forgotten", "late", "newest", "oldest", "refusals", "refused", "reply_to")

    def __init__(self, reply_to: str, *, in_doubt: bool) -> None:
        self.reply_to = reply_to
        self.called_at = 0.0
        self.newest: float = inf if in_doubt else 0
        """Id of the newest of its calls that came: one with a greater id came never before."""
        self.oldest = 0
        """Its calls with smaller ids have ended."""
        self.forgotten: float = inf if in_doubt else 0
        """The greatest key whose answer left the window although the caller might ask for it."""
        self.refusals: dict[int, Fault] = {}
        """Its refused attempts that are remembered, by their ids."""
        self.refused: float = 0
        """The greatest id of an attempt whose refusal was forgotten although the caller might ask for it."""
        self.late = 0.0
        """Seconds that its newest batch was late."""


class _Generation(dict[CallKey, Answer]):
    __slots__ = ("size",)

    def __init__(self) -> None:
        super().__init__()
        self.size = 0  # bytes of bodies


class Answers:
    """The answers of the last calls, bounded by their number and their bytes.

    Most have been received by the time that a few hundred more were given. So they pass through two generations, which
    leave as a whole; what somebody may still ask for then is kept beside them.

    Args:
        entries: answers kept, of these.
        size: bytes kept, of these.
    """

    def __init__(self, entries: int = 16_384, size: int = 16 * 1024 * 1024) -> None:
        self._entries = entries
        self._size = size
        self._young = _Generation()
        self._old = _Generation()
        self._kept: OrderedDict[CallKey, Answer] = OrderedDict()
        self._bytes = 0  # of what is kept
        self._sweep_at = GENERATION
        self._callers: OrderedDict[str, Caller] = OrderedDict()
        self._doubt_until = 0.0

    def __len__(self) -> int:
        return len(self._young) + len(self._old) + len(self._kept)

    def caller(self, reply_to: str, now: float) -> Caller:
        """What is remembered of this caller, who calls now (in the loop's time).

        Those that called last are remembered. If more than these called lately, one that is not known may be forgotten:
        nothing of it is taken for new.
        """
        callers = self._callers
        caller = callers.get(reply_to)
        if caller is None:
            caller = callers[reply_to] = Caller(reply_to, in_doubt=now < self._doubt_until)
            if len(callers) > MAX_CALLERS:
                _, forgotten = callers.popitem(last=False)
                self._doubt_until = forgotten.called_at + DOUBT
        else:
            callers.move_to_end(reply_to)
        caller.called_at = now
        return caller

    def ended(self, reply_to: str, oldest: int, *, is_late: bool = True) -> None:
        """Of this caller's calls, those with ids below `oldest` have ended.

        A late batch says less than is known. One that is not late knows best: what was told before, and goes beyond
        it, was forged.
        """
        caller = self._callers.get(reply_to)
        if caller is None:
            return
        if caller.oldest < oldest:
            caller.oldest = oldest
            caller.newest = max(caller.newest, oldest - 1)
        elif not is_late:
            caller.oldest = oldest

    def look_up(self, key: CallKey) -> Answer | Seen:
        """What is known of a repeated request."""
        for answers in (self._young, self._old, self._kept):
            if key in answers:
                return answers[key]
        caller = self._callers.get(key[0])
        return Seen.FORGOTTEN if caller is not None and key[1] <= caller.forgotten else Seen.NEVER

    def wanted_by(self, reply_to: str) -> list[Answer]:
        """The answers that this caller may still wait for. Refusals are among them: a refused attempt never runs, so
        it does no harm to say so twice."""
        caller = self._callers.get(reply_to)
        oldest = 0 if caller is None else caller.oldest
        held = [answers.items() for answers in (self._kept, self._old, self._young)]
        wanted = [answer for items in held for key, answer in items if key[0] == reply_to and answer.id >= oldest]
        return wanted if caller is None else wanted + [each for i, each in caller.refusals.items() if i >= oldest]

    def keep(self, key: CallKey, answer: Answer) -> None:
        """The request `key` has its answer, which is addressed to the newest of its attempts."""
        young = self._young
        young[key] = answer
        young.size += len(answer.body) if type(answer) is Reply else _size(answer)
        if len(young) >= GENERATION or young.size > GENERATION_SIZE:
            self._begin_generation()

    def _begin_generation(self) -> None:
        leaving, self._old, self._young = self._old, self._young, _Generation()
        for key, answer in self._wanted(leaving).items():
            self._bytes += _size(answer) - (_size(self._kept[key]) if key in self._kept else 0)
            self._kept[key] = answer
        if len(self._kept) >= self._sweep_at or self._is_full:
            self._kept = self._wanted(self._kept)
            self._bytes = sum(map(_size, self._kept.values()))
            self._sweep_at = max(2 * len(self._kept), GENERATION)  # twice what was wanted the last time
        if not self._is_full:
            return
        while len(self._kept) > self._entries or self._bytes > self._size:
            (reply_to, call_id), answer = self._kept.popitem(last=False)
            self._bytes -= _size(answer)
            caller = self._callers.get(reply_to)
            if caller is not None:
                caller.forgotten = max(caller.forgotten, call_id)

    @property
    def _is_full(self) -> bool:  # an eighth over the bounds: to look through all of them costs each answer little so
        return len(self._kept) > self._entries * 9 // 8 or self._bytes > self._size * 9 // 8

    def _wanted(self, answers: Mapping[CallKey, Answer]) -> OrderedDict[CallKey, Answer]:
        """Those of `answers` that their callers may still ask for."""
        wanted: OrderedDict[CallKey, Answer] = OrderedDict()
        reply_to, oldest = "", 0
        for key, answer in answers.items():
            if key[0] != reply_to:
                reply_to = key[0]
                caller = self._callers.get(reply_to)
                oldest = 0 if caller is None else caller.oldest
            if answer.id >= oldest:
                wanted[key] = answer
        return wanted


def _size(answer: Answer) -> int:
    return ENTRY + (len(answer.body) if type(answer) is Reply else len(msgspec.msgpack.encode(answer)))
