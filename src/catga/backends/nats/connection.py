"""One client connection, which outlives whatever happens to the server.

nats-py gives up after 60 reconnects, has no jitter, needs minutes to notice a half-open link and calls a
wrong password "no servers": all four are set right here.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeAlias, cast

import nats
import nats.errors
from nats.aio.client import Client, Server
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.protocol import command

from catga.backends import redact
from catga.backends.nats.client import address, drain, flush, hopeless, is_closing, is_socket
from catga.backends.nats.direct import DirectClient, OnPayload
from catga.errors import ClusterError

logger = logging.getLogger("catga.backends.nats")

OPERATION_TIMEOUT = 5.0
"""Seconds until a round trip to the broker counts as failed."""
REQUEST_TIMEOUT = 2.0
"""Seconds that a JetStream server has to answer."""
CLOSE_TIMEOUT = 1.0
"""Seconds that the last messages have to reach the server."""
PING_INTERVAL = 2
"""Seconds between the client's own pings of the server: a half-open link is noticed after three."""

POLL_INTERVAL = 0.5
"""Seconds between looks whether the client has closed."""

BUFFER = 64 * 1024
"""Bytes that wait for the socket until there is no room for more."""

pack_publish: Callable[[str, str, bytes], bytes] = cast(Any, command).pub_cmd
pack_unsubscribe: Callable[[int, int], bytes] = cast(Any, command).unsub_cmd

OnMessage = Callable[[Msg], Awaitable[None]]
Publication: TypeAlias = tuple[str, bytes, str]
"""(subject, payload, reply subject or "")"""


class Listening:
    """A subscription that outlives the client it was made with. ``on_payload``, if it has one, may be called instead
    of ``on_message``."""

    __slots__ = ("on_message", "on_payload", "queue", "subject", "subscription")

    def __init__(self, subject: str, on_message: OnMessage, queue: str, on_payload: OnPayload | None) -> None:
        self.subject = subject
        self.on_message = on_message
        self.queue = queue
        self.on_payload = on_payload
        self.subscription: Subscription | None = None


class NatsConnection:
    """One client connection, shared by discovery and transport; closed when both are.

    Args:
        client: a connected client to use instead; it is not closed here.
        options: passed on to ``nats.connect``.
    """

    def __init__(self, url: str, connect_timeout: float, options: dict[str, Any]) -> None:
        self._url = url
        self._timeout = connect_timeout
        self._given: Client | None = options.pop("client", None)
        self._options = options
        self._client: Client | None = self._given
        self._users = 0
        self._closing = False
        self._opening: asyncio.Task[None] | None = None
        self._refused: asyncio.Future[str] | None = None
        self._last_problem = ""
        self._poll: asyncio.Task[None] | None = None
        self._reopening: asyncio.Task[None] | None = None
        self._listening: list[Listening] = []
        self._up = False
        self.on_link: list[Callable[[bool], None]] = []
        self.problems = 0
        """Errors that the client reported."""

    @property
    def client(self) -> Client:
        """The connected client. Raises `ClusterError` if there is none."""
        if self._client is None or self._client.is_closed:
            raise ClusterError(f"not connected to {redact(self._url)}")
        return self._client

    @property
    def is_up(self) -> bool:
        """Whether the link is believed to work."""
        return self._client is not None and self._client.is_connected

    async def open(self) -> None:
        """Connect, once for all users. Raises `ClusterError` within the connect timeout."""
        self._users += 1
        if self._opening is None:
            self._opening = asyncio.create_task(self._connect())
        try:
            await asyncio.shield(self._opening)
        except BaseException:  # also cancelled: nobody else would close what is being opened
            self._users -= 1
            if self._users == 0:
                self._opening.cancel()
                self._opening = None
            raise

    async def close(self, listenings: Iterable["Listening"]) -> None:
        """End these subscriptions, and disconnect with the last user. Bounded by a few seconds.

        The server knows when this returns: it would notice the end of the connection a moment later only.
        """
        self._users -= 1
        if self.is_up:
            await self._bounded(self._end(list(listenings)), "unsubscribe", CLOSE_TIMEOUT, quiet=True)
        if self._users > 0 or self._opening is None:
            return
        self._opening.cancel()
        self.on_link.clear()
        self._closing = True
        for task in (self._poll, self._reopening):
            if task is not None:
                task.cancel()
        if self._given is None and self._client is not None and not self._client.is_closed:
            await self._bounded(self._client.close(), "close", CLOSE_TIMEOUT, quiet=True)

    async def _end(self, listenings: list["Listening"]) -> None:
        for listening in listenings:
            if listening in self._listening and listening.subscription is not None:
                self._listening.remove(listening)
                self._hand_over(listening, False)
                await listening.subscription.unsubscribe()
        await flush(self.client)

    async def receive(self, subject: str, on_payload: OnPayload, queue: str = "") -> "Listening":
        """Subscribe to a subject without wildcards, for its payloads. Returns when the server knows."""

        async def on_message(message: Msg) -> None:  # of a client that was handed in
            on_payload(message.data)

        return await self.subscribe(subject, on_message, queue, on_payload)

    async def subscribe(
        self, subject: str, on_message: OnMessage, queue: str = "", on_payload: OnPayload | None = None
    ) -> "Listening":
        """Subscribe, and return when the server knows."""
        listening = Listening(subject, on_message, queue, on_payload)
        try:
            await self._listen(listening)
            self._listening.append(listening)
            await self.flush()
        except BaseException:
            self._drop(listening)
            raise
        return listening

    async def caught_up(self) -> None:
        """Return once all that came before the message at hand was handled. nats-py has a task for each subscription:
        they wake in the order of what came, but then each takes all that it has."""
        await asyncio.sleep(0)

    async def unsubscribe(self, listening: "Listening") -> None:
        """Unsubscribe, having handled what the server had sent before."""
        try:
            if self._is_current(listening):
                await self._bounded(drain(self.client, listening.subscription), "unsubscribe", quiet=True)
        finally:
            self._drop(listening)

    def _drop(self, listening: "Listening") -> None:
        """Whatever failed: nothing more is handled, and nothing is subscribed again after a reconnect."""
        if listening in self._listening:
            self._listening.remove(listening)
        subscription: Any = listening.subscription
        if subscription is not None:
            subscription._stop_processing()
            subscription._conn._remove_sub(subscription._id)
            if self._is_current(listening):  # or it would count as a listener for as long as the client is connected
                self._write(self._client, [pack_unsubscribe(subscription._id, 0)])
        self._hand_over(listening, False)

    def _is_current(self, listening: "Listening") -> bool:
        """Whether the server has it from this client, not from one that has closed: their numbers are the same."""
        subscription: Any = listening.subscription
        return self.is_up and subscription is not None and subscription._conn is self._client

    def _hand_over(self, listening: "Listening", on: bool) -> None:
        """Whether the client gives payloads to `listening` itself; a client that was handed in cannot."""
        if listening.on_payload is None or not isinstance(self._client, DirectClient):
            return
        if on:
            self._client.take(listening.subject, listening, listening.on_payload)
        else:
            self._client.leave(listening.subject, listening)

    def publish(self, messages: Sequence[Publication]) -> bool:
        """Write messages to the server. Returns whether there is room for more.

        Raises:
            ClusterError: the link is down, or a message is larger than the server takes; nothing was written.
        """
        client: Any = self._client
        if not self.is_up or is_closing(client):
            raise ClusterError(f"the link to {redact(self._url)} is down")
        limit, size = client.max_payload, 0
        commands: list[bytes] = []
        for subject, data, reply in messages:
            if len(data) > limit:
                raise ClusterError(f"{redact(self._url)} takes {limit} bytes, a message has {len(data)}")
            size += len(data)
            commands.append(pack_publish(subject, reply, data))
        client.stats["out_msgs"] += len(commands)
        client.stats["out_bytes"] += size
        return self._write(client, commands)

    def _write(self, client: Any, commands: list[bytes]) -> bool:
        """Write `commands`. nats-py's flusher does the same, but as a task, in a later turn of the event loop."""
        if client._pending or not is_socket(client):  # what was handed to the client itself goes first
            client._pending += commands
            client._pending_data_size += sum(map(len, commands))
            if not is_socket(client):
                if client._flush_queue.empty():
                    client._flush_queue.put_nowait(asyncio.get_running_loop().create_future())
                return bool(client._pending_data_size <= BUFFER)
            commands, client._pending = client._pending, []
            client._pending_data_size = 0
        socket = client._transport._io_writer.transport
        socket.write(b"".join(commands))  # `writelines` of Python 3.12.0 to 3.12.8 ignores a full buffer
        return bool(socket.get_write_buffer_size() <= BUFFER)

    async def drain(self) -> None:
        """Return once there is room for more. Raises `ClusterError` if the link is lost."""
        client: Any = self.client
        if not is_socket(client):
            await self.flush()
            return
        try:
            await client._transport.drain()
        except OSError as error:
            raise ClusterError(f"{redact(self._url)}: {error}") from error

    async def request(self, subject: str, data: bytes, headers: dict[str, str] | None = None) -> Msg:
        """The answer to a message. Raises `ClusterError` if there is none in time."""
        requesting = self.client.request(subject, data, timeout=REQUEST_TIMEOUT, headers=headers)
        return cast(Msg, await self._bounded(requesting, f"request to {subject}"))

    async def flush(self) -> None:
        """A round trip to the server, behind everything handed to the client before."""
        await self._bounded(flush(self.client), "flush")

    async def _connect(self) -> None:
        if self._given is not None:
            self._up = self._given.is_connected
            self._poll = asyncio.create_task(self._poll_given(self._given))
            return
        self._client = await self._new_client()
        self._up = True
        self._poll = asyncio.create_task(self._poll_closed(), name="catga-nats-poll")

    async def _new_client(self) -> Client:
        """A connected client. Raises `ClusterError` within the connect timeout."""
        client = DirectClient()
        refused = self._refused = asyncio.get_running_loop().create_future()
        self._last_problem = ""
        servers, credentials = address(self._url)
        settings: dict[str, Any] = {
            "name": "catga",
            "connect_timeout": 2,
            "reconnect_time_wait": 0.1,
            "max_reconnect_attempts": -1,
            "reconnect_to_server_handler": self._next_server,
            "ping_interval": PING_INTERVAL,
            "max_outstanding_pings": 2,
            **({} if self._options.keys() & {"user", "token"} else credentials),
            **self._options,
            "error_cb": self._on_error,
            "disconnected_cb": self._on_disconnected,
            "reconnected_cb": self._on_reconnected,
            "closed_cb": self._on_closed,
        }
        connecting = asyncio.create_task(client.connect(servers, **settings))
        ends: list[asyncio.Future[Any]] = [connecting, refused]
        try:
            await asyncio.wait(ends, timeout=self._timeout, return_when=asyncio.FIRST_COMPLETED)
            if refused.done():
                raise ClusterError(f"{redact(self._url)} {refused.result()}")
            if not connecting.done():
                why = f": {self._last_problem}" if self._last_problem else ""
                raise ClusterError(f"{redact(self._url)} could not be reached within {self._timeout:g} s{why}")
            try:
                connecting.result()
            except (nats.errors.Error, OSError, ValueError) as error:
                raise ClusterError(f"{redact(self._url)}: {error}") from error
        except BaseException:
            connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)
            await self._bounded(client.close(), "close", quiet=True)
            raise
        return client

    async def _reopen(self) -> None:
        """nats-py closes for ever on some errors of the server's. We do not: begin anew, with a new client."""
        while True:
            await asyncio.sleep(random.uniform(0.2, 2.0))
            client: Client | None = None
            try:
                client = self._client = await self._new_client()
                for listening in list(self._listening):
                    await self._listen(listening)
            except ClusterError as error:
                logger.debug("still not connected", extra={"catga_error": str(error)})
                if client is not None:  # connected, and yet of no use: it must not stay
                    await self._bounded(client.close(), "close", quiet=True)
            else:
                self._tell(up=True)
                return

    async def _listen(self, listening: "Listening") -> None:
        self._hand_over(listening, True)  # before the first can come, or it would be overtaken
        client: Any = self.client  # nats-py's own annotation of `subscribe` is incomplete
        subscribing = client.subscribe(listening.subject, queue=listening.queue, cb=listening.on_message)
        listening.subscription = await self._bounded(subscribing, "subscribe")

    async def _bounded(
        self, operation: Awaitable[Any], what: str, timeout: float = OPERATION_TIMEOUT, *, quiet: bool = False
    ) -> Any:
        try:
            async with asyncio.timeout(timeout):
                return await operation
        except (nats.errors.Error, OSError, TimeoutError, AssertionError) as error:  # nats-py asserts what it expects
            if quiet:
                logger.debug("%s failed", what, extra={"catga_error": repr(error)})
                return None
            raise ClusterError(f"{redact(self._url)}: {what} failed: {error!r}") from error

    def _tell(self, up: bool) -> None:
        if up != self._up:
            self._up = up
            for listener in self.on_link:
                listener(up)

    async def _poll_given(self, client: Client) -> None:
        """A client that was handed in has its owner's callbacks: look at its state instead."""
        reconnects = client.stats["reconnects"]
        while True:
            if client.stats["reconnects"] != reconnects:  # between two looks
                reconnects = client.stats["reconnects"]
                self._tell(up=False)
            self._tell(client.is_connected)
            await asyncio.sleep(0.1)

    async def _poll_closed(self) -> None:
        """nats-py may close for ever without a word: its closing fails on a socket that is gone already."""
        while True:
            await asyncio.sleep(POLL_INTERVAL)
            if self._client is None:
                continue
            if self._client.is_closed:
                await self._on_closed()
            elif self._client.is_reconnecting:
                self._tell(up=False)
                if is_closing(self._client):  # it waits for a silent server to read what is buffered
                    cast(Any, self._client)._transport._io_writer.transport.abort()

    async def _on_error(self, error: Exception) -> None:
        self.problems += 1
        text = self._last_problem = str(error) or type(error).__name__
        final = hopeless(error)
        if final and self._refused is not None and not self._refused.done():
            self._refused.set_result(final)
        if "permissions violation" in text.lower():
            logger.error("the broker forbids what catga needs: %s", text)
        logger.debug("the NATS client reports a problem", extra={"catga_error": text})

    async def _on_disconnected(self) -> None:
        self._tell(up=False)

    async def _on_reconnected(self) -> None:
        self._tell(up=True)

    async def _on_closed(self) -> None:
        self._tell(up=False)
        connected_once = self._client is not None
        if connected_once and not self._closing and (self._reopening is None or self._reopening.done()):
            self._reopening = asyncio.create_task(self._reopen())

    def _next_server(self, known: list[Server], _info: dict[str, Any]) -> tuple[Server, float]:
        """Which server next, and when: 200 clients that lost one broker must not return in one instant."""
        left_open = getattr(self._client, "_transport", None)
        if left_open is not None:  # nats-py forgets the socket of an attempt that failed half-way
            left_open.close()
        return random.choice(known), random.uniform(0.05, 0.5)
