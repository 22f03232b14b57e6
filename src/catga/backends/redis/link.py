"""`RedisLink`: a node's link to the server, as a row of sessions.

redis-py's own Pub/Sub resubscribes in silence, so that a gap goes unnoticed, and waits for ever on a frozen link.
Here a lost or silent connection ends the session; whoever uses the link is told, and told again when the next
session has every subscription confirmed.

So does a server that became a replica. What is published on the new primary reaches who still listens on the
replica, too, and is not counted: a request would be taken for undelivered, and run. So who leaves a replica
waits until everybody must have seen it.
"""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeAlias, TypeVar

from hiredis import ReplyError

from catga.backends.complaints import Complaints
from catga.backends.joining import end, persist, to_the_end
from catga.backends.redis.connect import Connector, RefusedError, ReplicaError, takes_no_writes
from catga.backends.redis.session import LOOK_INTERVAL, OnReply, Session
from catga.errors import ClusterError

logger = logging.getLogger("catga.backends.redis")

RECONNECT = (0.05, 0.5)
"""Seconds to wait before an attempt to reconnect: 200 clients that lost one server must not return in one instant."""
LEAVE_REPLICA = LOOK_INTERVAL + 1.0
"""Seconds to wait besides after a replica was met: until all other nodes have looked at it, too."""
FLUSH_TIMEOUT = 1.0

T = TypeVar("T")
OnMessage: TypeAlias = Callable[[bytes], None]


class RedisLink:
    """The link of one node to the server, for discovery and transport; closed with the last of them.

    Args:
        connect_timeout: seconds until an unreachable server is an error at the start.
        channel: one of this link's own, for proofs.
    """

    def __init__(self, connector: Connector, connect_timeout: float, channel: str) -> None:
        self.url = connector.url
        self.db = connector.db
        self.on_link: Callable[[bool], None] = lambda _: None
        self.on_reply: OnReply = lambda _message, _reply: None
        self._connector = connector
        self._timeout = connect_timeout
        self._channel = channel
        self._handlers: dict[str, OnMessage] = {}  # by channel
        self._hints: set[str] = set()  # channels that the link can do without
        self._session: Session | None = None
        self._opening: asyncio.Task[None] | None = None
        self._runner: asyncio.Task[None] | None = None
        self._users = 0
        self._joining_until = 0.0  # in the loop's time
        self._cause = ""  # of the link's being down
        self.complaints = Complaints(logger)

    @property
    def problem(self) -> str:
        """Why the link is down, or what the server refuses now; empty while all is well."""
        return self.complaints.recent if self.is_up else self._cause

    @property
    def session(self) -> Session:
        """The live session. Raises `ClusterError` if there is none."""
        if self._session is None or not self._session.is_alive:
            raise ClusterError(f"the link to {self.url} is down")
        return self._session

    @property
    def is_up(self) -> bool:
        """Whether the link is believed to work."""
        session = self._session  # once: a scrape asks in another thread
        return session is not None and session.is_alive

    async def open(self) -> None:
        """Connect, once for all users. Raises `ClusterError` within the connect timeout."""
        self._users += 1
        if self._opening is None:
            self._joining_until = asyncio.get_running_loop().time() + self._timeout
            self._opening = asyncio.create_task(self._connect_first())
        try:
            await asyncio.shield(self._opening)
        except BaseException:
            await to_the_end(self.close())
            raise

    async def close(self) -> None:
        """Disconnect with the last user, after what was sent, for a second at most."""
        self._users -= 1
        if self._users > 0 or self._opening is None:
            return
        opening, self._opening = self._opening, None
        await to_the_end(self._disconnect(opening))

    async def _disconnect(self, opening: "asyncio.Task[None]") -> None:
        with suppress(ClusterError, ReplyError, TimeoutError):
            async with asyncio.timeout(FLUSH_TIMEOUT):
                await self.session.call("PING")
        await end(opening)  # first: the other is made by it
        if self._runner is not None:
            await end(self._runner)
        self._runner = None
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def persist(self, step: Callable[[], Awaitable[T]]) -> T:
        """The result of `step`. While the node joins, `step` is tried again if the link breaks under it.

        Raises:
            ClusterError: of `step`; at the latest when the connect timeout is over.
        """
        return await persist(step, lambda: self.is_up, self._joining_until)

    async def call(self, *command: str | bytes | int) -> Any:
        """The reply to one command. Raises `ClusterError` when the link is lost, or for an error reply."""
        try:
            return await self.session.call(*command)
        except ReplyError as error:
            refusal = ClusterError(f"{self.url}: {error}")
            if not takes_no_writes(refusal):
                self.complaints.refused(f"the server refuses a command: {error}")
            raise refusal from error

    async def subscribe(self, channel: str, on_message: OnMessage, *, hint: bool = False) -> None:
        """Pass what comes on `channel` to `on_message`; active at the server when this returns.

        Args:
            hint: the link may come back without the channel, should the server forbid it then.

        Raises:
            ClusterError: the link is down: the channel is subscribed when it is back. Or the server forbids it.
        """
        self._handlers[channel] = on_message
        if hint:
            self._hints.add(channel)
        try:
            await self.persist(lambda: self.session.subscribe([channel]))
        except ReplyError as error:
            self._handlers.pop(channel, None)
            raise ClusterError(f"{self.url}: cannot subscribe to {channel}: {error}") from error

    async def unsubscribe(self, channel: str) -> None:
        """Stop, after what the server had sent before. Without a link there is nothing to stop."""
        if channel in self._handlers:
            try:
                with suppress(ClusterError, ReplyError):
                    await self.session.subscribe([channel], "UNSUBSCRIBE")
            finally:
                self._handlers.pop(channel, None)

    def forget(self, channel: str) -> None:
        """Take back a `subscribe` that failed or was cancelled, without waiting."""
        self._handlers.pop(channel, None)
        if self.is_up:
            self.session.leave(channel)

    def post(self, *command: str | bytes | int) -> None:
        """Send a command whose reply nobody waits for, if the link is up."""
        if self.is_up:
            self.session.post(*command)

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
                    await asyncio.sleep(pause(error))
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
            async with self._confirming():
                await session.prove(self._channel)
            await self._resubscribe(session)
        except BaseException:
            await session.close()
            raise
        return session

    async def _resubscribe(self, session: Session) -> None:
        done: set[str] = set()
        while done != (wanted := set(self._handlers)):  # which may change meanwhile
            async with self._confirming():
                await session.subscribe(sorted(wanted - done - self._hints))
                await session.subscribe(sorted(done - wanted), "UNSUBSCRIBE")
                for hint in (wanted - done) & self._hints:
                    await self._subscribe_hint(session, hint)
            done = wanted

    async def _subscribe_hint(self, session: Session, channel: str) -> None:
        try:
            await session.subscribe([channel])
        except ReplyError as error:
            self._handlers.pop(channel, None)
            logger.warning("%s: cannot subscribe to %s any more, and goes on without: %s", self.url, channel, error)

    @asynccontextmanager
    async def _confirming(self) -> AsyncGenerator[None]:
        try:
            async with asyncio.timeout(2 * LOOK_INTERVAL):
                yield
        except (ReplyError, TimeoutError) as error:
            raise ClusterError(f"{self.url}: messages cannot be exchanged: {error or 'no answer in time'}") from error

    async def _keep_up(self, session: Session) -> None:
        while True:
            cause = await session.ended()
            self._session, self._cause = None, str(cause)
            self.on_link(False)
            level = logging.WARNING if isinstance(cause, ReplicaError) else logging.DEBUG
            logger.log(level, "the session with %s ended: %r", self.url, cause)
            await session.close()
            session = await self._reconnect(cause)
            self._session = session
            self.complaints.forget()
            self.on_link(True)

    async def _reconnect(self, cause: BaseException | None) -> Session:
        while True:
            await asyncio.sleep(pause(cause))
            try:
                return await self._connect()
            except Exception as error:  # noqa: BLE001 - also what a user's credential provider raises
                cause, self._cause = error, str(error)
                self.complaints.tell(f"no connection yet: {error}")


def pause(cause: BaseException | None) -> float:
    """Seconds to wait before the next attempt to connect."""
    return random.uniform(*RECONNECT) + (LEAVE_REPLICA if isinstance(cause, ReplicaError) else 0.0)
