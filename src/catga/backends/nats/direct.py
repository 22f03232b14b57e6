"""nats-py's client with one turn of the event loop less on the way in."""

import asyncio
import logging
from collections.abc import Callable

from nats.aio.client import Client

logger = logging.getLogger("catga.backends.nats")

OnPayload = Callable[[bytes], None]


class DirectClient(Client):
    """Hands the payloads of some subjects over as it reads them.

    nats-py puts each message into a queue, for a task of its subscription: a tenth of a lone call's time. Who takes a
    payload here must not wait. A message with headers still goes by the queue.
    """

    def __init__(self) -> None:
        super().__init__()
        self._direct: dict[bytes, tuple[object, OnPayload]] = {}

    def take(self, subject: str, owner: object, on_payload: OnPayload) -> None:
        """Hand what comes on `subject`, which has a subscription too, to `on_payload`."""
        self._direct[subject.encode()] = owner, on_payload

    def leave(self, subject: str, owner: object) -> None:
        """Do so no longer, if it was this owner's."""
        if self._direct.get(subject.encode(), (None,))[0] is owner:
            del self._direct[subject.encode()]

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        taken = self._direct.get(subject)
        if taken is None or headers:
            await super()._process_msg(sid, subject, reply, data, headers)
            return
        self.stats["in_msgs"] += 1
        self.stats["in_bytes"] += len(data)
        try:
            taken[1](data)
        except (Exception, asyncio.CancelledError):  # nothing of it may end the reading
            logger.exception("a payload could not be handled")
