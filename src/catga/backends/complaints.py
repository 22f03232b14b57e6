"""What a broker refuses: logged once, and told to who asks why the node is not ready."""

import logging
import re
import time

_OWN = re.compile(r"(?<=\.)(?:\d{10,}|[\w-]{22})(?=[.\":\s]|$)| \(sid .*\)")
"""What makes the subjects of one kind differ from node to node, and from life to life."""
MAX_TOLD = 256
"""Distinct texts that are remembered."""
RECENT = 2.0
"""Seconds for which a refusal counts as what the broker says now."""


class Complaints:
    """Logs each kind of text once, until all is well again."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._told: set[str] = set()
        self._refusal = ("", 0.0)

    @property
    def recent(self) -> str:
        """The last refusal, if it is recent; else ""."""
        text, at = self._refusal
        return text if time.monotonic() - at < RECENT else ""

    def tell(self, text: str, level: int = logging.WARNING) -> None:
        """Log `text`; at level DEBUG if its like was logged before."""
        kind = _OWN.sub("", text)
        is_new = kind not in self._told and len(self._told) < MAX_TOLD
        self._logger.log(level if is_new else logging.DEBUG, "%s", text)
        if is_new:
            self._told.add(kind)

    def refused(self, text: str) -> None:
        """The broker refused something, while the link is well."""
        self._refusal = text, time.monotonic()
        self.tell(text, logging.ERROR)

    def forget(self) -> None:
        """All is well: what is wrong later is news."""
        self._told.clear()
