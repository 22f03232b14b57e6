"""What a broker refuses: logged once, and told to who asks why the node is not ready."""

import logging
import time

MAX_TOLD = 256
"""Distinct texts that are remembered."""
RECENT = 2.0
"""Seconds for which a refusal counts as what the broker says now."""


class Complaints:
    """Logs each text once, until all is well again."""

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
        """Log `text`, unless it was logged before."""
        if text not in self._told and len(self._told) < MAX_TOLD:
            self._told.add(text)
            self._logger.log(level, "%s", text)

    def refused(self, text: str) -> None:
        """The broker refused something, while the link is well."""
        self._refusal = text, time.monotonic()
        self.tell(text, logging.ERROR)

    def forget(self) -> None:
        """All is well: what is wrong later is news."""
        self._told.clear()
