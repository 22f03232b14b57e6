"""The server's words on what it forbids, each for its owner.

A refused subscription is named by its subject. Of a refused publication the server tells the subject only, once for
each message, and before its answer to the next PING. So what was sent to a subject between two answers was refused as
a whole if there are as many refusals as messages; else nobody can tell which of them arrived.
"""

import json
import re
from collections import deque
from collections.abc import Sequence
from itertools import islice
from operator import attrgetter
from typing import NamedTuple

from catga.abc import Outgoing, TransportListener

MAX_SENT = 8_192
"""Messages that are remembered; if more leave between two answers, refusals among them leave all in doubt."""

_address = attrgetter("subject", "token")
_VIOLATION = re.compile(r'Permissions Violation for (Publish|Subscription) to ("(?:[^"\\]|\\.)*")')


class Violation(NamedTuple):
    """What the server forbids."""

    subject: str
    is_subscription: bool
    text: str

    @staticmethod
    def parse(text: str) -> "Violation | None":
        """The violation that an error of the server's tells, or None."""
        found = _VIOLATION.search(text)
        if found is None:
            return None
        try:
            subject = str(json.loads(found[2]))
        except ValueError:
            subject = found[2][1:-1]
        return Violation(subject, found[1] == "Subscription", text.strip("'"))

    def advice(self, prefix: str) -> str:
        """What to allow, after what is forbidden; "" if the subject is not below `prefix`."""
        return f'; allow "{prefix}.>"' if self.subject.startswith(f"{prefix}.") else ""

    def __str__(self) -> str:
        return f"forbids {'subscribing' if self.is_subscription else 'publishing'} to {self.subject}: {self.text}"


class Refusals:
    """Finds out which messages of a transport were refused."""

    def __init__(self) -> None:
        self.listener: TransportListener | None = None
        """Is told of the transport's messages that were refused."""
        self._sent: deque[tuple[str, int]] = deque(maxlen=MAX_SENT)  # (subject, token)
        self._count = 0  # of all that was sent
        self._answered = 0  # of those, how many the server had taken when it answered last
        self._refused: dict[str, tuple[int, str]] = {}

    def sent(self, messages: Sequence[Outgoing]) -> None:
        """These messages leave now."""
        self._sent.extend(map(_address, messages))
        self._count += len(messages)

    def asked(self) -> int:
        """A PING leaves now. Returns the mark to give to `answered`."""
        return self._count

    def refused(self, violation: Violation) -> None:
        """The server refused a message."""
        count, _ = self._refused.get(violation.subject, (0, ""))
        self._refused[violation.subject] = count + 1, violation.text

    def answered(self, mark: int) -> None:
        """The PING was answered: by now the server has told all that it refused of what was sent before."""
        if self._refused and self.listener is not None:
            self._judge(mark, self.listener)
        self._answered = mark

    def _judge(self, mark: int, listener: TransportListener) -> None:
        refused, self._refused = self._refused, {}
        first = self._count - len(self._sent)  # what came before is not remembered
        whole = first <= self._answered
        for subject, (count, text) in refused.items():
            between = islice(self._sent, max(self._answered - first, 0), max(mark - first, 0))
            tokens = [token for to, token in between if to == subject]
            if whole and len(tokens) == count:
                for token in tokens:
                    listener.on_refused(subject, token, text)
            else:
                listener.on_doubt(subject)

    def forget(self) -> None:
        """The connection is another one: what was sent over the last one is not told of any more."""
        self._answered = self._count
        self._refused.clear()
