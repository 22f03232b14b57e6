"""What other members say of one that this node does not hear: indirect probes (SWIM, section 3.1). Pure: no I/O.

A member that is silent to this node may be cut off from this node alone. So up to two others are asked to ping it, and
tell how long they have not heard of it.
"""

import math
import random
from collections.abc import Container
from typing import NamedTuple

from catga.membership.hearing import HearingClock
from catga.membership.view import View
from catga.node import NodeInfo

COUNT = 2
"""Witnesses asked about a member, at a time."""
SILENT = 2.0
"""Seconds of hearing without a sign of life after which the others are asked."""
UNHEARD = 1.5
"""Seconds for which a witness must not have heard of a member, to confirm that it is silent to others, too."""
UNREACHABLE = 8.0
"""Seconds for which a member must be silent to this node and the witnesses until it has left, where the broker does not
tell who listens."""
MAX_QUESTIONS = 256
MAX_ASKED_ABOUT = 8
"""Members about whom others are asked, a probe interval."""
FIRST_QUESTIONS = 2
"""So often the others are asked about a member that is silent, if nothing depends on it: a question may be lost."""


class Question(NamedTuple):
    """Ask `witness` about `target`."""

    witness: NodeInfo
    nonce: int
    target: NodeInfo


class _Asked(NamedTuple):
    witness: str
    target: str
    incarnation: int


class _Word(NamedTuple):
    incarnation: int
    age: float  # seconds since the witness last heard of the target
    at: float  # hearing time


class Witnesses:
    """Questions under way, and the latest answers about each member in doubt.

    Args:
        me: this node's id.
        interval: seconds of a probe interval: for three of them an answer counts as fresh.
    """

    def __init__(self, me: str, view: View, hearing: HearingClock, interval: float, random: random.Random) -> None:
        self._me = me
        self._view = view
        self._hearing = hearing
        self._fresh = 3 * interval
        self._random = random
        self._questions: dict[int, _Asked] = {}
        self._words: dict[str, dict[str, _Word]] = {}  # target → witness → what it said last
        self._lived: dict[str, float] = {}  # target → when a witness said that it hears of it, in hearing time
        self.asked: dict[str, int] = {}
        """How often about whom, since its last sign of life."""

    def ask(self, target: NodeInfo) -> list[Question]:
        """The questions to send about `target`."""
        asked: list[Question] = []
        for witness in self._witnesses(target.node_id):
            nonce = self._random.getrandbits(53)
            self._questions[nonce] = _Asked(witness.node_id, target.node_id, target.incarnation)
            asked.append(Question(witness, nonce, target))
        while len(self._questions) > MAX_QUESTIONS:
            del self._questions[next(iter(self._questions))]
        self.asked[target.node_id] = self.asked.get(target.node_id, 0) + 1
        return asked

    def due(self, reported: Container[str], *, insisting: bool) -> list[Question]:
        """The questions to send in this interval: about members that are silent, and those in `reported`.

        Args:
            insisting: go on asking about those that may be unreachable.
        """
        silent = [i for i in self._view.suspects() if i in reported or self._is_due(i, insisting=insisting)]
        chosen = silent if len(silent) <= MAX_ASKED_ABOUT else self._random.sample(silent, MAX_ASKED_ABOUT)
        targets = (self._view.get(node_id) for node_id in chosen)
        return [question for target in targets if target is not None for question in self.ask(target)]

    def told(self, witness: str, nonce: int, age: float) -> NodeInfo | None:
        """An answer came. Returns the member that it is about; None if nobody asked, or it is a member no more, or was
        heard of since."""
        question = self._questions.pop(nonce, None)
        if question is None or question.witness != witness or question.target not in self.asked:
            return None
        target = self._view.get(question.target)
        if target is None or target.incarnation != question.incarnation:
            return None
        if age < UNHEARD:  # it lives, whatever others said before
            self._words.pop(question.target, None)
            self._lived[question.target] = self._hearing.now
        else:
            words = self._words.setdefault(question.target, {})
            words[witness] = _Word(question.incarnation, age, self._hearing.now)
        return target

    def heard(self, node_id: str) -> None:
        """A sign of life: what was said about its silence is void."""
        if self.asked.pop(node_id, None) is not None:
            self._words.pop(node_id, None)
            self._lived.pop(node_id, None)

    def agree(self, target: NodeInfo, age: float, *, since: float = 0.0, count: int = 1) -> bool:
        """Whether `count` witnesses (or all others, if they are fewer) have not heard of `target` for `age` seconds,
        and said so after `since`."""
        since = max(since, self._hearing.now - self._fresh)
        words = self._words.get(target.node_id, {}).values()
        agreeing = [w for w in words if w.at >= since and w.age >= age and w.incarnation == target.incarnation]
        return len(agreeing) >= min(count, len(self._witnesses(target.node_id)))

    def silence(self, node_id: str) -> float:
        """Seconds of hearing since a witness said that it hears of this member; infinite if none did."""
        lived = self._lived.get(node_id)
        return math.inf if lived is None else self._hearing.now - lived

    def are_there(self, node_id: str) -> bool:
        """Whether there is anybody to ask about this member."""
        return bool(self._witnesses(node_id))

    def _is_due(self, node_id: str, *, insisting: bool) -> bool:
        age = self._view.age(node_id) or 0.0
        asked = self.asked.get(node_id, 0)
        return age >= SILENT and (asked < FIRST_QUESTIONS or (insisting and age >= UNREACHABLE))

    def _witnesses(self, target: str) -> list[NodeInfo]:
        doubtful = {self._me, target, *self._view.suspects()}
        others = [node for node in self._view.nodes() if node.node_id not in doubtful]
        return others if len(others) <= COUNT else self._random.sample(others, COUNT)
