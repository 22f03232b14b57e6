"""A process's connection to the broker in a simulated world.

`Link` stands for `NatsConnection`: everything above the connection is the real code.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from simulated_broker import Broker, Msg, OnMessage, Session, Sub
from simulation import Loop

from catga.backends.nats.refusals import Refusals
from catga.errors import ClusterError

T = TypeVar("T")
OPERATION_TIMEOUT = 5.0
DETECT = (4.0, 6.0)
"""Seconds until a client notices that its link is half-open: its third ping of the server is due."""
HANG = 2.0
"""Seconds that an attempt to connect to a silent broker takes."""
RESET = (0.005, 0.04)
"""Seconds until a link that was reset is tried again."""


class Link:
    """What `NatsConnection` is to discovery and transport, on a simulated wire."""

    def __init__(self, broker: Broker, loop: Loop, reconnect: tuple[float, float], side: int = 0) -> None:
        self.broker = broker
        self.world = broker.world
        self.loop = loop
        self.on_link: list[Callable[[bool], None]] = []
        self.on_closed: list[Callable[[str], None]] = []
        self.session: Session | None = None
        self.deaf = False  # half-open: nothing passes, and neither side knows
        self.cut = False  # refused: both sides know
        self.max_payload = 1024 * 1024
        self.client = self
        self.down_since = 0.0
        self.refusals = Refusals()
        self.problem = ""
        self.reconnect = reconnect
        self.side = side  # of the broker, should it be split
        self._subs: dict[Sub, None] = {}
        self._users = 0
        self._up = False
        self._pause: tuple[float, float] | None = None  # before the next attempt to connect, if not the usual one
        self._suspicion = 0
        broker.links.append(self)

    # -- catga.backends.nats.NatsConnection -----------------------------------------------------------

    @property
    def is_up(self) -> bool:
        return self._up and not self.loop.dead

    async def open(self) -> None:
        self._users += 1
        if self._users == 1:
            self._try()
        deadline = self.loop.time() + OPERATION_TIMEOUT
        while not self._up:
            if self.loop.time() > deadline:
                self._users -= 1
                raise ClusterError("could not be reached")
            await asyncio.sleep(0.02)

    async def close(self, _subscriptions: object = ()) -> None:
        self._users -= 1
        if self._users == 0:
            self.hang_up()

    async def persist(self, step: Callable[[], Awaitable[T]]) -> T:
        return await step()

    async def confirm(self, messages: Sequence[tuple[str, bytes, str]]) -> None:
        self.publish(messages)
        await self.flush()

    async def subscribe(self, subject: str, on_message: OnMessage, queue: str = "", *, vital: bool = False) -> Sub:
        sub = Sub(self, subject, queue, on_message)
        self._subs[sub] = None
        self._send(self.broker.subscribe, sub)
        await self.flush()
        return sub

    async def receive(self, subject: str, on_payload: Callable[[bytes], None], queue: str = "") -> Sub:
        async def on_message(message: Msg) -> None:
            on_payload(message.data)

        return await self.subscribe(subject, on_message, queue)

    async def caught_up(self) -> None:
        """What comes here is handled at once, in its order."""

    async def unsubscribe(self, sub: Sub) -> None:
        sub.open = False
        self._subs.pop(sub, None)
        if self.is_up:
            self._send(self.broker.unsubscribe, sub)

    def publish(self, messages: Sequence[tuple[str, bytes, str]]) -> bool:
        if not self.is_up:
            raise ClusterError("the link is down")
        for subject, data, reply in messages:
            self._send(self.broker.publish, subject, data, reply)
        return True

    async def drain(self) -> None: ...

    async def flush(self) -> None:
        await self.ask(lambda: None)

    async def ask(self, question: Callable[[], Any]) -> Any:
        """A round trip: the broker's answer to `question`."""
        if not self.is_up:
            raise ClusterError("the link is down")
        answer = self.loop.create_future()
        self._send(self._answer, question, answer)
        try:
            async with asyncio.timeout(OPERATION_TIMEOUT):
                return await answer
        except TimeoutError as error:
            raise ClusterError("no answer in time") from error

    # -- the wire -------------------------------------------------------------------------------------

    def arrive(self, session: Session, call: Callable[..., None], *args: Any) -> None:
        """Something reaches the client's end of a connection."""
        if session.used and session is self.session:
            if self.deaf:
                session.held_back.append((call, args))
            elif session.known:
                self.loop.receive(call, *args)

    def lose(self, session: Session) -> None:
        """The client learns that this connection is no more."""
        if session is self.session and session.used and not self.loop.dead:
            session.used = False
            self.loop.receive(self._down)

    def suspect_path(self) -> None:
        """The path fell silent: the client finds out, unless it heals first."""
        self._suspicion += 1
        self.world.after(self.world.random.uniform(*DETECT), self._give_up, self._suspicion)

    def set_deaf(self, deaf: bool) -> None:
        self.deaf = deaf
        if deaf:
            self.suspect_path()
        elif self.session is not None:
            session = self.session
            held, session.held = session.held, []
            back, session.held_back = session.held_back, []
            for call, args in held:
                self.broker.do(call, *args)
            for call, args in back:
                self.arrive(session, call, *args)
            if not session.known:
                self.lose(session)

    def set_cut(self, cut: bool) -> None:
        self.cut = cut
        if cut and self.session is not None:
            self.broker.do(self.broker.close, self.session)
            self.lose(self.session)

    def reset(self) -> None:
        """The connection ends, and the client is back at once."""
        if self.session is not None:
            self._pause = RESET
            self.broker.do(self.broker.close, self.session)
            self.lose(self.session)

    def hang_up(self) -> None:
        """The process ends or leaves: the broker is told by the kernel."""
        self._up = False
        if self.session is not None:
            self.session.used = False
            self._end(self.session)
        self.session = None
        self._users = 0
        if self in self.broker.links:
            self.broker.links.remove(self)

    def _end(self, session: Session) -> None:
        if self.deaf:  # the broker goes on believing in the connection, until the path heals
            self.world.after(0.5, self._end, session)
        else:
            self.broker.do(self.broker.close, session)

    def _send(self, call: Callable[..., None], *args: Any) -> None:
        session = self.session
        if session is None or not session.used:
            return
        session.outbound = max(session.outbound, self.loop.now + self.broker.wire.delay)
        self.world.at(session.outbound, self._pass, session, call, (session, *args))

    def _pass(self, session: Session, call: Callable[..., None], args: tuple[Any, ...]) -> None:
        if self.deaf:
            if session.used:
                session.held.append((call, args))
        else:
            self.broker.do(call, *args)

    def _answer(self, session: Session, question: Callable[[], Any], answer: "asyncio.Future[Any]") -> None:
        if session.known:
            self.world.after(self.broker.wire.delay, self.arrive, session, _resolve, answer, question())

    def _give_up(self, suspicion: int) -> None:
        if suspicion != self._suspicion or not (self.deaf or self.broker.frozen):
            return
        session = self.session
        if self.loop.stopped:
            self.world.after(0.5, self._give_up, suspicion)
        elif session is not None and session.used:
            session.held.clear()
            self._end(session)
            self.lose(session)

    def _down(self) -> None:
        if self._up:
            self._up, self.down_since = False, self.world.now
            for listener in list(self.on_link):
                listener(False)
        self._retry(0.0)

    def _retry(self, hang: float) -> None:
        pause, self._pause = self._pause or self.reconnect, None
        self.loop.call_later(hang + self.world.random.uniform(*pause), self._try)

    def _try(self) -> None:
        if self._users == 0 or (self.session is not None and self.session.used):
            return
        if self.deaf or self.broker.frozen:
            self._retry(HANG)
        elif self.cut or not self.broker.up:
            self._retry(0.0)
        else:
            session = self.session = Session(self)
            for sub in self._subs:
                self._send(self.broker.subscribe, sub)
            self._send(self._answer, lambda: None, _Then(self._connected, session))

    def _connected(self, session: Session) -> None:
        if session is self.session and not self._up:
            self._up = True
            for listener in list(self.on_link):
                listener(True)


class _Then:
    """Looks like a future to `_resolve`: calls on."""

    def __init__(self, call: Callable[..., None], *args: Any) -> None:
        self._call, self._args = call, args

    def done(self) -> bool:
        return False

    def set_result(self, _: object) -> None:
        self._call(*self._args)


def _resolve(answer: Any, value: object) -> None:
    if not answer.done():
        answer.set_result(value)
