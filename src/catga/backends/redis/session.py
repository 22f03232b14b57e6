"""`Session`: one life of two connections that are up together or not at all, and their watchdog."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

import hiredis
from hiredis import ReplyError

from catga.abc import Outgoing
from catga.backends.redis.connect import ReplicaError, Wire, tells_replica, tells_unwell
from catga.errors import ClusterError

LOOK_INTERVAL = 2.0
"""Seconds between looks at the connections. Each look asks both of them something."""
MAX_SILENT = 2
"""Questions without a word that it may leave without a word: at the next look it is dead, 4 to 6 s after its last."""
ANSWERS = (b"subscribe", b"unsubscribe", b"pong")
"""What the answers of a connection that subscribes begin with."""
PING = b"*1\r\n$4\r\nPING\r\n"

pack_command: Callable[[tuple[str | bytes | int, ...]], bytes] = cast(Any, hiredis).pack_command

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
        # In the order of what was sent; None where nobody waits.
        self._replies: deque[Outgoing | asyncio.Future[Any] | None] = deque()
        self._confirmations: deque[asyncio.Future[Any] | None] = deque()
        self._silent = {commands: 0, subscriber: 0}  # looks of the watchdog since something came
        self._tasks = [
            asyncio.create_task(step, name="catga-redis")
            for step in (self._read_replies(), self._read_messages(), self._watch())
        ]

    @property
    def is_alive(self) -> bool:
        """Whether nothing is known to be wrong."""
        return not any(task.done() for task in self._tasks) and self._commands.is_open and self._subscriber.is_open

    async def ended(self) -> BaseException | None:
        """Wait for the end of the session; returns its cause."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        return next((task.exception() for task in done if not task.cancelled()), None)

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

    def publish(self, messages: Sequence[Outgoing], *, exact: bool = False) -> bool:
        """Write all messages at once. Returns whether there is room for more.

        Args:
            exact: count who subscribes to the channel itself, not to a pattern.
        """
        self._replies.extend(messages)
        alone, shared = (pack_exact, pack_shared_exact) if exact else (pack_publish, pack_shared)
        return self._commands.write(
            b"".join([(shared if m.shared else alone)(m.subject.encode(), m.payload) for m in messages])
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

    def post(self, *command: str | bytes | int) -> None:
        """Send a command whose reply nobody waits for."""
        self._replies.append(None)
        self._commands.write(pack_command(command))

    def leave(self, channel: str) -> None:
        """Unsubscribe without waiting."""
        self._confirmations.append(None)
        self._subscriber.write(pack_command(("UNSUBSCRIBE", channel)))

    async def prove(self, channel: str) -> None:
        """Return if both connections are with one server; a name may have led them to two. Raises like `call`."""
        await self.subscribe([channel])
        count = await self.call("PUBLISH", channel, b"")
        await self.subscribe([channel], "UNSUBSCRIBE")
        if count == 0:
            raise ClusterError("the two connections are with two servers")

    async def _read_replies(self) -> None:
        while True:
            for reply in await self._commands.read():
                waiting = self._replies.popleft()
                if isinstance(waiting, Outgoing):
                    self._on_reply(waiting, reply)
                elif waiting is not None:
                    settle(waiting, reply)
                if (waiting is None or isinstance(reply, ReplyError)) and tells_replica(reply):
                    raise ReplicaError("the server became a replica")
            self._silent[self._commands] = 0

    async def _read_messages(self) -> None:
        while True:
            for reply in await self._subscriber.read():
                if not isinstance(reply, ReplyError | bytes) and reply[0] == b"message":
                    self._on_message(reply[1].decode(), reply[2])
                elif isinstance(reply, ReplyError) or reply == b"PONG" or reply[0] in ANSWERS:
                    self._confirm(self._confirmations.popleft(), reply)
            self._silent[self._subscriber] = 0

    def _confirm(self, waiting: asyncio.Future[Any] | None, reply: Any) -> None:
        if waiting is not None:
            settle(waiting, reply)
        elif isinstance(reply, ReplyError) and tells_unwell(reply):  # to a PING
            raise ClusterError(str(reply))

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_INTERVAL)
            for connection in self._silent:
                if self._silent[connection] >= MAX_SILENT:
                    raise ClusterError("the server is silent")
                self._silent[connection] += 1
            self.post("HELLO", 2)  # as good as a PING, and the answer has the server's role
            self._confirmations.append(None)
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

# PUBLISH counts those that subscribe to a pattern, too: whoever watches all channels hides that nobody else is there.
EXACT = b"""
local count = redis.call('PUBSUB', 'NUMSUB', KEYS[1])[2]
redis.call('PUBLISH', KEYS[1], ARGV[1])
return count
"""

SHARE_EXACT = SHARE.replace(
    b"redis.call('PUBLISH', channel, ARGV[1]) > 0 then return 1",
    b"redis.call('PUBSUB', 'NUMSUB', channel)[2] > 0 then redis.call('PUBLISH', channel, ARGV[1]) return 1",
)


def pack_exact(channel: bytes, payload: bytes) -> bytes:
    """A message to those that subscribe to `channel` itself, as PUBLISH; the reply is their number."""
    return pack_command((b"EVAL", EXACT, 1, channel, payload))


def pack_shared_exact(subject: bytes, payload: bytes) -> bytes:
    """As `pack_shared`, for one that subscribes to its channel itself."""
    return pack_command((b"EVAL", SHARE_EXACT, 1, subject, payload))


def pack_shared(subject: bytes, payload: bytes) -> bytes:
    """A message to one of those whose channels are in the set `subject`."""
    return pack_command((b"EVAL", SHARE, 1, subject, payload))
