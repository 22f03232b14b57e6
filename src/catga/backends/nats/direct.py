"""nats-py's client with a shorter way in, an ear for the server's errors, and no way around TLS."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, cast

from nats.aio.client import Client
from nats.aio.transport import TcpTransport
from nats.errors import Error
from nats.protocol.parser import AWAITING_CONTROL_LINE, ERR_RE

from catga.backends.nats.client import NoTlsError
from catga.backends.nats.refusals import Refusals, Violation

logger = logging.getLogger("catga.backends.nats")

TOO_LARGE = "maximum payload violation"

OnPayload = Callable[[bytes], None]


class DirectClient(Client):
    """Hands the payloads of some subjects over where they are read.

    nats-py wakes a task to parse what the socket gave, which puts each message into a queue, for a task of its
    subscription: two turns of the event loop, and a fifth of a lone call's time. Here whole messages for these
    subjects leave before that, as long as nothing is before them; all else goes nats-py's way. Who takes a payload must
    not wait.
    """

    def __init__(self) -> None:
        super().__init__()
        self._direct: dict[bytes, tuple[object, OnPayload]] = {}
        self._marks: deque[int | None] = deque()  # of each PING without an answer
        self._asked = False  # since the last answer, because of a refusal
        self.on_violation: Callable[[Violation], None] = lambda _: None
        self.refusals = Refusals()

    def take(self, subject: str, owner: object, on_payload: OnPayload) -> None:
        """Hand what comes on `subject`, which has a subscription too, to `on_payload`."""
        self._direct[subject.encode()] = owner, on_payload

    def leave(self, subject: str, owner: object) -> None:
        """Do so no longer, if it was this owner's."""
        if self._direct.get(subject.encode(), (None,))[0] is owner:
            del self._direct[subject.encode()]

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        """nats-py goes on in plain text, password and all, unless the server insists on TLS."""
        if initial_connection and self._must_be_tls and not self.options["tls_handshake_first"]:
            if not (info.get("tls_required") or info.get("tls_available")):
                raise NoTlsError("nats: the server offers no TLS")
            info["tls_required"] = True
        await super()._process_info(info, initial_connection)

    @property
    def _must_be_tls(self) -> bool:
        server: Any = self._current_server
        return server.uri.scheme == "tls" or (server.uri.scheme == "nats" and "tls" in self.options)

    # -- the server's errors --------------------------------------------------------------------------

    async def _process_err(self, err_msg: str) -> None:
        """nats-py has it in lower case, subjects and all; and it closes for good when a message was too large."""
        found = ERR_RE.match(cast(Any, self._ps).buf)
        text = err_msg if found is None or found[1] is None else found[1].decode()
        violation = Violation.parse(text)
        if violation is not None:
            self.on_violation(violation)
            if not violation.is_subscription and not self._asked:  # the answer tells that these were all
                self._asked = True
                await self._send_ping()
            return
        error = Error(f"nats: {text}")
        await self._error_cb(error)
        if TOO_LARGE in text.lower():
            await self._process_op_err(error)
        else:
            await super()._process_err(err_msg)

    async def _process_connect_init(self) -> None:
        if isinstance(self._transport, TcpTransport):
            cast(Any, self._transport).writelines = self._write_all
        await super()._process_connect_init()
        self._marks.clear()
        self._asked = False
        self.refusals.forget()

    async def _send_ping(self, future: "asyncio.Future[Any] | None" = None) -> None:
        # What nats-py itself keeps back leaves behind the PING.
        self._marks.append(None if cast(Any, self)._pending else self.refusals.asked())
        await cast(Any, super())._send_ping(future)

    async def _process_pong(self) -> None:
        self._asked = False
        if self._marks and (mark := self._marks.popleft()) is not None:
            self.refusals.answered(mark)
        await super()._process_pong()

    def _write_all(self, commands: list[bytes]) -> None:
        """`writelines` of Python 3.12.0 to 3.12.8 raises a TypeError if the socket was lost."""
        cast(Any, self._transport).write(b"".join(commands))

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        """nats-py would stop halfway at commands that a lost socket cannot take."""
        tcp: Any = self._transport
        if isinstance(self._transport, TcpTransport):
            tcp.writelines, tcp.drain = self._write_last, partial(_drained, tcp.drain)
        await super()._close(status, do_cbs)

    def _write_last(self, commands: list[bytes]) -> None:
        with suppress(OSError, RuntimeError):  # the latter is uvloop's
            self._write_all(commands)

    # -- the short way in -----------------------------------------------------------------------------

    async def _read_loop(self) -> None:
        if isinstance(self._transport, TcpTransport):
            reader = cast(Any, self._transport)._io_reader
            reader.feed_data = partial(self._feed, reader, reader.feed_data)
        await super()._read_loop()

    def _feed(self, reader: Any, feed: Callable[[bytes], None], data: bytes) -> None:
        """The socket gave `data`."""
        parser: Any = self._ps
        if not reader._buffer and not parser.buf and parser.state == AWAITING_CONTROL_LINE:  # nothing is before it
            data = self._hand_over(data)
        if data:
            feed(data)

    def _hand_over(self, data: bytes) -> bytes:
        """Hand over the messages at the front of `data` that can be. Returns the rest."""
        start = 0
        while (end := data.find(b"\r\n", start)) > 0:
            line = data[start:end].split()  # MSG subject sid [reply] size
            if len(line) < 4 or line[0] != b"MSG" or not line[-1].isdigit():
                break
            taken = self._direct.get(line[1])
            if taken is None:
                break
            begin = end + 2
            end = begin + int(line[-1])
            if len(data) < end + 2:
                break
            self._hand(taken[1], data[begin:end])
            start = end + 2
        return data[start:]

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        taken = self._direct.get(subject)
        if taken is None or headers:
            await super()._process_msg(sid, subject, reply, data, headers)
        else:
            self._hand(taken[1], data)

    def _hand(self, on_payload: OnPayload, data: bytes) -> None:
        self.stats["in_msgs"] += 1
        self.stats["in_bytes"] += len(data)
        try:
            on_payload(data)
        except (Exception, asyncio.CancelledError):  # nothing of it may end the reading
            logger.exception("a payload could not be handled")


async def _drained(drain: Callable[[], Awaitable[None]]) -> None:
    with suppress(OSError, RuntimeError):
        await drain()
