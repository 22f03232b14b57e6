"""One client connection, which outlives whatever happens to the server.

nats-py gives up after 60 reconnects, needs minutes to notice a half-open link and closes for good on some errors: all
three are set right here and in `opening.py`.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, TypeVar, cast

from nats.aio.client import Client
from nats.aio.msg import Msg

from catga.backends import redact
from catga.backends.complaints import Complaints
from catga.backends.joining import BrokenError, end, persist, to_the_end
from catga.backends.nats import given
from catga.backends.nats.client import bounded, drain, flush, hopeless, is_closing, is_socket, shut
from catga.backends.nats.direct import DirectClient, OnPayload
from catga.backends.nats.listening import Listening, OnMessage, Renewal
from catga.backends.nats.opening import connect, target
from catga.backends.nats.refusals import Refusals, Violation
from catga.backends.nats.writing import Publication, pack, pack_unsubscribe, write
from catga.errors import ClusterError

logger = logging.getLogger("catga.backends.nats")

REQUEST_TIMEOUT = 2.0
"""Seconds that a JetStream server has to answer."""
CLOSE_TIMEOUT = 1.0
"""Seconds that the last messages have to reach the server."""
POLL_INTERVAL = 0.5
"""Seconds between looks whether the client has closed."""

CALLBACKS = ("error_cb", "disconnected_cb", "reconnected_cb", "closed_cb")
"""Of the client: they are ours."""

T = TypeVar("T")


class NatsConnection:
    """One client connection, shared by discovery and transport; closed when both are.

    Args:
        client: a connected client to use instead; it is not closed here.
        options: passed on to ``nats.connect``, over the credentials of the URL.
        prefix: of the subjects; what is refused to the owner of a client on others is only logged.
    """

    def __init__(self, url: str, connect_timeout: float, options: dict[str, Any], prefix: str = "") -> None:
        self._url = redact(url)
        self._prefix = prefix
        self._timeout = connect_timeout
        self._given: Client | None = options.pop("client", None)
        self._target = target(url, options)
        self._client: Client | None = self._given
        self._users = 0
        self._closing = False
        self._opening: asyncio.Task[None] | None = None
        self._refused: asyncio.Future[str] | None = None
        self._last_problem = ""
        self._poll: asyncio.Task[None] | None = None
        self._reopening: asyncio.Task[None] | None = None
        self._renewal = Renewal(self)
        self._joining_until = 0.0  # in the loop's time
        self._confirming: list[dict[str, str]] = []
        self._complaints = Complaints(logger)
        self.refusals = Refusals()
        self.listenings: list[Listening] = []
        self._up = False
        self.on_link: list[Callable[[bool], None]] = []
        self.on_closed: list[Callable[[str], None]] = []
        self.problems = 0
        """Errors that the client reported."""

    @property
    def client(self) -> Client:
        """The connected client. Raises `ClusterError` if there is none."""
        if self._client is None or self._client.is_closed:
            raise ClusterError(f"not connected to {self._url}")
        return self._client

    @property
    def is_up(self) -> bool:
        """Whether the link is believed to work."""
        return self._client is not None and self._client.is_connected

    @property
    def problem(self) -> str:
        """Why the link is down, or what the server forbids now; empty while all is well."""
        if not self.is_up:
            return self._last_problem
        return self._renewal.problem or self._complaints.recent

    async def open(self) -> None:
        """Connect, once for all users. Raises `ClusterError` within the connect timeout."""
        self._users += 1
        if self._opening is None:
            self._joining_until = asyncio.get_running_loop().time() + self._timeout
            self._closing = False
            self._opening = asyncio.create_task(self._connect())
        try:
            await asyncio.shield(self._opening)
        except BaseException:  # also cancelled: nobody else would close what is being opened, or open by now
            await to_the_end(self.close(()))
            raise

    async def close(self, listenings: Iterable[Listening]) -> None:
        """End these subscriptions, and disconnect with the last user. Bounded by a few seconds.

        The server knows when this returns: it would notice the end of the connection a moment later only.
        """
        self._users -= 1
        try:
            if self.is_up:
                await bounded(self._end(list(listenings)), self._url, "unsubscribe", CLOSE_TIMEOUT, quiet=True)
        finally:
            if self._users <= 0 and self._opening is not None:
                await to_the_end(self._disconnect(self._opening))

    async def _disconnect(self, opening: "asyncio.Task[None]") -> None:
        self._opening = None
        self.on_link.clear()
        self.on_closed.clear()
        self._closing = True
        self._renewal.close()
        await end(opening)  # first: the others may be made by it
        for task in filter(None, (self._poll, self._reopening)):
            await end(task)
        if self._given is None and self._client is not None:
            await bounded(shut(self._client), self._url, "close", CLOSE_TIMEOUT, quiet=True)

    async def _end(self, listenings: list[Listening]) -> None:
        for listening in listenings:
            if listening in self.listenings and listening.subscription is not None:
                self.listenings.remove(listening)
                self._hand_over(listening, False)
                await listening.subscription.unsubscribe()
        await flush(self.client)

    async def receive(self, subject: str, on_payload: OnPayload, queue: str = "") -> Listening:
        """Subscribe to a subject without wildcards, for its payloads. Returns when the server knows."""

        async def on_message(message: Msg) -> None:  # of a client that was handed in
            on_payload(message.data)

        return await self.subscribe(subject, on_message, queue, on_payload, vital=not queue)

    async def subscribe(
        self,
        subject: str,
        on_message: OnMessage,
        queue: str = "",
        on_payload: OnPayload | None = None,
        *,
        vital: bool = False,
    ) -> Listening:
        """Subscribe, and return when the server knows. Should it end the subscription later, it is renewed.

        Args:
            vital: whether the link counts as down while the server refuses this subscription.

        Raises:
            ClusterError: the server forbids it, or does not answer.
        """
        listening = Listening(subject, on_message, queue, on_payload, vital)
        try:
            await self.listen(listening)
            self.listenings.append(listening)
            await self._confirmed(listening)
        except BaseException:
            self._drop(listening)
            raise
        listening.is_made = True
        return listening

    async def _confirmed(self, listening: Listening) -> None:
        while True:
            try:
                await self.flush()
            except BrokenError:  # it is subscribed to again with the next connection
                continue
            if listening.refused:
                raise ClusterError(listening.refused)
            return

    async def persist(self, step: Callable[[], Awaitable[T]]) -> T:
        """The result of `step`. While the node joins, `step` is tried again if the link breaks under it.

        Raises:
            ClusterError: of `step`; at the latest when the connect timeout is over.
        """
        return await persist(step, lambda: self.is_up, self._joining_until)

    async def caught_up(self) -> None:
        """Return once all that came before the message at hand was handled. nats-py has a task for each subscription:
        they wake in the order of what came, but then each takes all that it has."""
        await asyncio.sleep(0)

    async def unsubscribe(self, listening: Listening) -> None:
        """Unsubscribe, having handled what the server had sent before."""
        try:
            if self._is_current(listening):
                await bounded(drain(self.client, listening.subscription), self._url, "unsubscribe", quiet=True)
        finally:
            self._drop(listening)

    def _drop(self, listening: Listening) -> None:
        """Whatever failed: nothing more is handled, and nothing is subscribed again after a reconnect."""
        if listening in self.listenings:
            self.listenings.remove(listening)
        subscription: Any = listening.subscription
        if subscription is not None:
            subscription._stop_processing()
            subscription._conn._remove_sub(subscription._id)
            self.forget(subscription)  # or it would count as a listener for as long as the client is connected
        self._hand_over(listening, False)

    def forget(self, subscription: Any) -> None:
        """Tell the server that nobody is subscribed so any more, if it knows of it from this client."""
        if self.is_up and subscription._conn is self._client:
            with suppress(BrokenError):  # then it is forgotten with the connection
                write(self._client, [pack_unsubscribe(subscription._id, 0)])

    def _is_current(self, listening: Listening) -> bool:
        """Whether the server has it from this client, not from one that has closed: their numbers are the same."""
        subscription: Any = listening.subscription
        return self.is_up and subscription is not None and subscription._conn is self._client

    def _hand_over(self, listening: Listening, on: bool) -> None:
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
        if self.is_up:
            try:
                return write(self._client, pack(self._client, messages))
            except BrokenError:
                pass
        raise BrokenError(f"the link to {self._url} is down")

    async def confirm(self, messages: Sequence[Publication]) -> None:
        """Publish, and return when the server has taken the messages. Raises `ClusterError`, also if it forbids one."""
        forbidden = dict.fromkeys((subject for subject, _, _ in messages), "")
        self._confirming.append(forbidden)
        try:
            self.publish(messages)
            await self.flush()
        finally:
            self._confirming = [each for each in self._confirming if each is not forbidden]
        for text in filter(None, forbidden.values()):
            raise ClusterError(text)

    async def drain(self) -> None:
        """Return once there is room for more. Raises `ClusterError` if the link is lost."""
        client: Any = self.client
        if not is_socket(client):
            await self.flush()
            return
        try:
            await client._transport.drain()
        except OSError as error:
            raise BrokenError(f"{self._url}: {error}") from error

    async def request(self, subject: str, data: bytes, headers: dict[str, str] | None = None) -> Msg:
        """The answer to a message. Raises `ClusterError` if there is none in time."""
        requesting = self.client.request(subject, data, timeout=REQUEST_TIMEOUT, headers=headers)
        return cast(Msg, await bounded(requesting, self._url, f"request to {subject}"))

    async def flush(self) -> None:
        """A round trip to the server, behind everything handed to the client before. Raises `ClusterError`."""
        await bounded(flush(self.client), self._url, "flush")

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
        client.on_violation, client.refusals = self._on_violation, self.refusals
        refused = self._refused = asyncio.get_running_loop().create_future()
        self._last_problem = ""
        ours = (self._on_error, self._on_disconnected, self._on_reconnected, self._on_closed)
        callbacks: dict[str, Any] = dict(zip(CALLBACKS, ours, strict=True))
        try:
            await connect(client, self._target, callbacks, self._timeout, refused, lambda: self._last_problem)
        except BaseException:
            await bounded(shut(client), self._url, "close", quiet=True)
            raise
        return client

    async def _reopen(self) -> None:
        """nats-py closes for ever on some errors of the server's. We do not: begin anew, with a new client."""
        while True:
            await asyncio.sleep(random.uniform(0.2, 2.0))
            client: Client | None = None
            try:
                client = self._client = await self._new_client()
                for listening in list(self.listenings):
                    await self.listen(listening)
                await self.flush()
            except ClusterError as error:
                logger.debug("still not connected", extra={"catga_error": str(error)})
                if client is not None:  # connected, and yet of no use: it must not stay
                    await bounded(shut(client), self._url, "close", quiet=True)
            else:
                self.tell(self._renewal.is_whole)
                return

    async def listen(self, listening: Listening) -> None:
        self._hand_over(listening, True)  # before the first can come, or it would be overtaken
        client: Any = self.client  # nats-py's own annotation of `subscribe` is incomplete
        subscribing = client.subscribe(listening.subject, queue=listening.queue, cb=listening.on_message)
        listening.subscription = await bounded(subscribing, self._url, "subscribe")

    def tell(self, up: bool) -> None:
        if up != self._up:
            self._up = up
            if up:
                self._complaints.forget()
            for listener in self.on_link:
                listener(up)

    async def _poll_given(self, client: Client) -> None:
        why = self._last_problem = await given.closed(client, self.tell, self._complain)
        self.tell(False)
        for listener in self.on_closed:
            listener(why)

    def _complain(self, text: str) -> None:
        self.problems += 1
        if not self.is_up:
            self._last_problem = text
            self._complaints.tell(f"{self._url}: no connection yet: {text}")
        elif f'"{self._prefix}.'.lower() in text.lower():  # nats-py has made it lower case
            self._complaints.refused(f"{self._url}: {text}")
        else:
            self._complaints.tell(f"{self._url}: {text}")

    async def _poll_closed(self) -> None:
        """nats-py may close for ever without a word: its closing fails on a socket that is gone already."""
        while True:
            await asyncio.sleep(POLL_INTERVAL)
            if self._client is None:
                continue
            if self._client.is_closed:
                await self._on_closed()
            elif self._client.is_reconnecting:
                self.tell(False)
                if is_closing(self._client):  # it waits for a silent server to read what is buffered
                    cast(Any, self._client)._transport._io_writer.transport.abort()

    async def _on_error(self, error: Exception) -> None:
        self.problems += 1
        text = self._last_problem = str(error) or type(error).__name__
        final = hopeless(error)
        if final and self._refused is not None and not self._refused.done():
            self._refused.set_result(final)
        if self._poll is not None and not self._up:
            self._complaints.tell(f"{self._url}: no connection yet: {text}")
        logger.debug("the NATS client reports a problem", extra={"catga_error": text})

    async def _on_disconnected(self) -> None:
        self.tell(False)

    async def _on_reconnected(self) -> None:
        self.tell(self._renewal.is_whole)

    async def _on_closed(self) -> None:
        self.tell(False)
        connected_once = self._client is not None
        if connected_once and not self._closing and (self._reopening is None or self._reopening.done()):
            self._reopening = asyncio.create_task(self._reopen())

    def _on_violation(self, violation: Violation) -> None:
        self.problems += 1
        text = f"{self._url} {violation}{violation.advice(self._prefix)}"
        if not violation.is_subscription:
            self._complaints.refused(text)
            self.refusals.refused(violation)
            for forbidden in self._confirming:
                if violation.subject in forbidden:
                    forbidden[violation.subject] = text
            return
        for listening in [each for each in self.listenings if each.subject == violation.subject]:
            listening.refused = text
            if listening.is_made:
                self._complaints.tell(text, logging.ERROR)
                self._renewal.lost(listening)
