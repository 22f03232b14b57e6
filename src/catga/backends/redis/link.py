"""`RedisLink`: two connections that are up together or not at all, and their watchdog.

redis-py's own Pub/Sub resubscribes in silence, so that a gap goes unnoticed, and waits for ever on a frozen link.
Here a lost or silent connection ends the session; whoever uses the link is told, and told again when the next
session has every subscription confirmed.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeAlias, cast

import hiredis
from hiredis import ReplyError

from catga.abc import Outgoing
from catga.backends.redis.connect import Connector, RefusedError, Wire
from catga.errors import ClusterError

logger = logging.getLogger("catga.backends.redis")

PING_INTERVAL = 2.0
"""Seconds between looks at the connections: one that is silent after a PING for two of them is dead."""
MAX_SILENT = 2
RECONNECT = (0.05, 0.5)
"""Seconds to wait before an attempt to reconnect: 200 clients that lost one server must not return in one instant."""
FLUSH_TIMEOUT = 1.0
PING = b"*1\r\n$4\r\nPING\r\n"

pack_command: Callable[[tuple[str | bytes | int, ...]], bytes] = cast(Any, hiredis).pack_command

OnMessage: TypeAlias = Callable[[bytes], None]
OnReply: TypeAlias = Callable[[Outgoing, Any], None]
"""The server's answer to a PUBLISH: the count of receivers, or an error."""


class Session:
    """One life of the two connections.

    Args:
        on_message: (channel, payload) of what comes in.
        on_reply: told what became of each published message, in order.
    """

    def __init__(
        self,
        commands: Wire,
        subscriber: Wire,
        on_message: Callable[[str, bytes], None],
        on_reply: OnReply,
    ) -> None:
        self._commands = commands
        self._subscriber = subscriber
        self._on_message = on_message
        self._on_reply = on_reply
        self._replies: deque[Outgoing | asyncio.Future[Any] | None] = deque()  # in the order of the commands
        self._confirmations: deque[asyncio.Future[Any]] = deque()  # in the order of the (un)subscribes
        self._silent = {commands: 0, subscriber: 0}  # looks of the watchdog since something came
        self._tasks = [
            asyncio.create_task(step, name="catga-redis")
            for step in (self._read_replies(), self._read_messages(), self._watch())
        ]

    @property
    def is_alive(self) -> bool:
        """Whether nothing is known to be wrong."""
        return not any(task.done() for task in self._tasks) and self._commands.is_open and self._subscriber.is_open

    async def ended(self) -> str:
        """Wait for the end of the session; returns its cause."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        return "; ".join(repr(task.exception()) for task in done if not task.cancelled())

    async def close(self) -> None:
        """Drop the connections. What waits for an answer fails."""
        for task in self._tasks:
            task.cancel()
        self._commands.abort()
        self._subscriber.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        lost = ClusterError("the link to the server was lost")
        for waiting in (*self._replies, *self._confirmations):
            if isinstance(waiting, asyncio.Future) and not waiting.done():
                waiting.set_exception(lost)

    def publish(self, messages: Sequence[Outgoing]) -> bool:
        """Write all messages at once. Returns whether there is room for more."""
        self._replies.extend(messages)
        return self._commands.write(
            b"".join([(pack_shared if m.shared else pack_publish)(m.subject.encode(), m.payload) for m in messages])
        )

    async def drain(self) -> None:
        """Return once there is room for more messages, or the session has ended."""
        await self._commands.drain()

    async def call(self, *command: str | bytes | int) -> Any:
        """The reply to a command. Raises `ClusterError` when the session ends first, ReplyError for an error."""
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._replies.append(reply)
        self._commands.write(pack_command(command))
        return await reply

    async def subscribe(self, channels: Sequence[str], verb: str = "SUBSCRIBE") -> None:
        """Return when the server has confirmed every channel. Raises like `call`."""
        loop = asyncio.get_running_loop()
        confirmed: list[asyncio.Future[Any]] = [loop.create_future() for _ in channels]
        self._confirmations.extend(confirmed)
        self._subscriber.write(b"".join([pack_command((verb, channel)) for channel in channels]))
        await asyncio.gather(*confirmed)

    async def _read_replies(self) -> None:
        while True:
            for reply in await self._commands.read():
                waiting = self._replies.popleft()
                if isinstance(waiting, Outgoing):
                    self._on_reply(waiting, reply)
                elif waiting is not None:
                    settle(waiting, reply)
            self._silent[self._commands] = 0

    async def _read_messages(self) -> None:
        while True:
            for reply in await self._subscriber.read():
                if isinstance(reply, ReplyError) or reply[0] in (b"subscribe", b"unsubscribe"):
                    settle(self._confirmations.popleft(), reply)
                elif reply[0] == b"message":
                    self._on_message(reply[1].decode(), reply[2])
            self._silent[self._subscriber] = 0

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(PING_INTERVAL)
            for connection in self._silent:
                if self._silent[connection] > MAX_SILENT:
                    raise ClusterError("the server is silent")
                self._silent[connection] += 1
            if not self._replies:  # else an answer is due anyway
                self._replies.append(None)
                self._commands.write(PING)
            self._subscriber.write(PING)


def settle(waiting: asyncio.Future[Any], reply: Any) -> None:
    """End what waits with its reply, be it an error."""
    if waiting.done():
        return
    if isinstance(reply, ReplyError):
        waiting.set_exception(reply)
    else:
        waiting.set_result(reply)


def pack_publish(channel: bytes, payload: bytes) -> bytes:
    """A PUBLISH as the server reads it: by hand four times as fast as by redis-py, and on the path of every request."""
    return b"*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(channel), channel, len(payload), payload)


# One of those that share a subject gets the message: any at random that the server finds listening. One that vanished
# without a word is forgotten when it is next drawn.
SHARE = b"""
while true do
  local channel = redis.call('SRANDMEMBER', KEYS[1])
  if not channel then return 0 end
  if redis.call('PUBLISH', channel, ARGV[1]) > 0 then return 1 end
  redis.call('SREM', KEYS[1], channel)
end
"""


def pack_shared(subject: bytes, payload: bytes) -> bytes:
    """A message to one of those whose channels are in the set `subject`."""
    return pack_command((b"EVAL", SHARE, 1, subject, payload))


class RedisLink:
    """The link of one node to the server, for discovery and transport; closed with the last of them.

    Args:
        connect_timeout: seconds until an unreachable server is an error at the start.
    """

    def __init__(self, connector: Connector, connect_timeout: float) -> None:
        self.url = connector.url
        self.db = connector.db
        self.on_link: Callable[[bool], None] = lambda _: None
        self.on_reply: OnReply = lambda _message, _reply: None
        self._connector = connector
        self._timeout = connect_timeout
        self._handlers: dict[str, OnMessage] = {}  # by channel
        self._session: Session | None = None
        self._opening: asyncio.Task[None] | None = None
        self._runner: asyncio.Task[None] | None = None
        self._users = 0

    @property
    def session(self) -> Session:
        """The live session. Raises `ClusterError` if there is none."""
        if self._session is None or not self._session.is_alive:
            raise ClusterError(f"the link to {self.url} is down")
        return self._session

    @property
    def is_up(self) -> bool:
        """Whether the link is believed to work."""
        return self._session is not None and self._session.is_alive

    async def open(self) -> None:
        """Connect, once for all users. Raises `ClusterError` within the connect timeout."""
        self._users += 1
        if self._opening is None:
            self._opening = asyncio.create_task(self._connect_first())
        try:
            await asyncio.shield(self._opening)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Disconnect with the last user, after what was sent, for a second at most."""
        self._users -= 1
        if self._users > 0 or self._opening is None:
            return
        tasks = [task for task in (self._opening, self._runner) if task is not None]
        self._opening = self._runner = None
        with suppress(ClusterError, ReplyError, TimeoutError):
            async with asyncio.timeout(FLUSH_TIMEOUT):
                await self.session.call("PING")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def call(self, *command: str | bytes | int) -> Any:
        """The reply to one command. Raises `ClusterError` when the link is lost, or for an error reply."""
        try:
            return await self.session.call(*command)
        except ReplyError as error:
            raise ClusterError(f"{self.url}: {error}") from error

    async def subscribe(self, channel: str, on_message: OnMessage) -> None:
        """Pass what comes on `channel` to `on_message`; active at the server when this returns.

        Raises:
            ClusterError: the link is down: the channel is subscribed when it is back. Or the server forbids it.
        """
        self._handlers[channel] = on_message
        try:
            await self.session.subscribe([channel])
        except ReplyError as error:
            del self._handlers[channel]
            raise ClusterError(f"{self.url}: cannot subscribe to {channel}: {error}") from error

    async def unsubscribe(self, channel: str) -> None:
        """Stop, after what the server had sent before. Without a link there is nothing to stop."""
        if channel in self._handlers:
            with suppress(ClusterError, ReplyError):
                await self.session.subscribe([channel], "UNSUBSCRIBE")
            self._handlers.pop(channel, None)

    def _dispatch(self, channel: str, payload: bytes) -> None:
        handler = self._handlers.get(channel)
        if handler is not None:
            try:
                handler(payload)
            except Exception:
                logger.exception("a message could not be handled", extra={"catga_channel": channel})

    async def _connect_first(self) -> None:
        error = ClusterError(f"{self.url} could not be reached within {self._timeout:g} s")
        try:
            async with asyncio.timeout(self._timeout):
                while True:
                    try:
                        self._session = await self._connect()
                        break
                    except RefusedError:
                        raise
                    except ClusterError as failed:
                        error = failed
                    await asyncio.sleep(random.uniform(*RECONNECT))
        except TimeoutError:
            raise error from None
        self._runner = asyncio.create_task(self._keep_up(self._session), name="catga-redis-link")

    async def _connect(self) -> Session:
        commands = await self._connector.connect()
        try:
            subscriber = await self._connector.connect()
        except BaseException:
            commands.abort()
            raise
        session = Session(commands, subscriber, self._dispatch, lambda message, reply: self.on_reply(message, reply))
        try:
            await self._resubscribe(session)
        except BaseException:
            await session.close()
            raise
        return session

    async def _resubscribe(self, session: Session) -> None:
        done: set[str] = set()
        while missing := [channel for channel in self._handlers if channel not in done]:
            try:
                async with asyncio.timeout(2 * PING_INTERVAL):
                    await session.subscribe(missing)
            except (ReplyError, TimeoutError) as error:
                raise ClusterError(f"{self.url}: cannot subscribe: {error!r}") from error
            done.update(missing)
        dropped = [channel for channel in done if channel not in self._handlers]
        if dropped:
            try:
                async with asyncio.timeout(2 * PING_INTERVAL):
                    await session.subscribe(dropped, "UNSUBSCRIBE")
            except (ReplyError, TimeoutError) as error:
                raise ClusterError(f"{self.url}: cannot unsubscribe: {error!r}") from error

    async def _keep_up(self, session: Session) -> None:
        while True:
            cause = await session.ended()
            self._session = None
            self.on_link(False)
            logger.debug("the session ended", extra={"catga_error": cause})
            await session.close()
            session = await self._reconnect()
            self._session = session
            self.on_link(True)

    async def _reconnect(self) -> Session:
        while True:
            await asyncio.sleep(random.uniform(*RECONNECT))
            try:
                return await self._connect()
            except Exception as error:  # noqa: BLE001 - also what a user's credential provider raises
                logger.debug("no connection yet", extra={"catga_error": str(error)})
