"""What nodes ask each other to know who is there: pings and pongs, and questions about third ones."""

import asyncio
import secrets
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from catga.abc import Transport
from catga.errors import OverloadedError
from catga.node import NodeInfo
from catga.rpc.canary import Canary
from catga.rpc.client import Client
from catga.rpc.outbox import Outbox
from catga.rpc.subjects import inbox
from catga.rpc.wire import Ask, Batch, Frame, Ping, Pong, Tell

GREET_INTERVAL = 0.2
MAX_ASKED = 1024
"""Lives that are no members of which a bounce is still known to be theirs."""
MAX_PONGS = 2048
"""Pongs a second, at most."""


class Knowledge(Protocol):
    """What membership knows, and wants to know, of the others."""

    def is_member(self, node_id: str, incarnation: int, /) -> bool: ...
    def known_incarnation(self, node_id: str, /) -> int: ...
    def ended(self, node_id: str, incarnation: int, /) -> int: ...
    def replaced(self, incarnation: int, /) -> None: ...
    def heard_of_itself(self, incarnation: int, ended: int, /) -> None: ...
    def asked(self, reply_to: str, ask: Ask, /) -> None: ...
    def told(self, node_id: str, tell: Tell, /) -> None: ...


class Probes:
    """Sends and answers probes. None of them is worth waiting for, or complaining about.

    Args:
        me: (node_id, incarnation) of this node now.
        reply_box: where this node is answered.
        counters: ``dropped_pongs`` and ``missing_bounces`` are counted there.
    """

    def __init__(
        self,
        transport: Transport,
        outbox: Outbox,
        client: Client,
        knowledge: Knowledge,
        *,
        me: Callable[[], tuple[str, int]],
        prefix: str,
        reply_box: str,
        counters: Counter[str],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._outbox = outbox
        self._client = client
        self._knowledge = knowledge
        self._me = me
        self._prefix = prefix
        self._reply_box = reply_box
        self._counters = counters
        self._nonce = secrets.randbits(53)  # only another process of this node's id is told it
        self._strangers: OrderedDict[str, tuple[str, int]] = OrderedDict()  # inbox → life that was asked there
        self._echo: asyncio.Future[None] | None = None
        self._greeted: dict[str, asyncio.Future[None]] = {}
        self._pongs = 0  # in the current second
        self._second = 0.0
        self.refusals = 0
        """How often the broker said that it did not take a message, or some to a subject."""
        self.canary = Canary(
            transport, prefix, send=lambda subject: self.send(subject, Ping()), echo=self.ping_self, counters=counters
        )

    # -- asking ---------------------------------------------------------------------------------------

    def ping(self, node_id: str, incarnation: int) -> None:
        """Ask one incarnation of a node for a sign of life.

        Only a member is a destination of calls: the addresses of others come from anybody, and are soon forgotten.
        """
        my_id, mine = self._me()
        nonce = self._nonce if node_id == my_id and incarnation != mine else 0
        if self._knowledge.is_member(node_id, incarnation):
            self._client.ping(self._client.destinations[node_id, incarnation], nonce)
            return
        subject = inbox(self._prefix, node_id, incarnation)
        self._strangers[subject] = (node_id, incarnation)
        self._strangers.move_to_end(subject)
        if len(self._strangers) > MAX_ASKED:
            self._strangers.popitem(last=False)
        self.send(subject, Ping(nonce))

    def ping_self(self) -> None:
        """Ask this node itself."""
        self.ping(*self._me())

    def introduce(self, node_id: str, incarnation: int) -> None:
        """Tell a node at its inbox, unasked, what is known of it."""
        self.send(inbox(self._prefix, node_id, incarnation), self._pong(node_id, incarnation))

    def ask(self, witness: NodeInfo, nonce: int, target: NodeInfo) -> None:
        """Ask a member about another."""
        subject = inbox(self._prefix, witness.node_id, witness.incarnation)
        self.send(subject, Ask(nonce, target.node_id, target.incarnation))

    def send(self, subject: str, frame: Frame) -> None:
        """Send a frame that may be lost."""
        with suppress(OverloadedError):
            self._outbox.put(subject, frame)

    async def echo(self) -> None:
        """Return when a ping to this node's own inbox has come back: the subscription works."""
        if self._echo is None or self._echo.done():
            self._echo = self._loop.create_future()
        echo = self._echo
        while not echo.done():  # the link may break and lose one
            self.ping_self()
            await asyncio.wait([echo], timeout=GREET_INTERVAL)

    async def greet(self, nodes: Sequence[NodeInfo], timeout: float) -> None:
        """Ping `nodes`, again and again, until all have answered, or `timeout` seconds."""
        deadline = self._loop.time() + timeout
        waiting = self._greeted = {node.node_id: self._loop.create_future() for node in nodes}
        while (left := deadline - self._loop.time()) > 0:
            missing = [node for node in nodes if not waiting[node.node_id].done()]
            if not missing:
                break
            for node in missing:
                self.ping(node.node_id, node.incarnation)
            await asyncio.wait(waiting.values(), timeout=min(left, GREET_INTERVAL))
        self._greeted = {}

    # -- what comes in --------------------------------------------------------------------------------

    def unlistened(self, subject: str) -> tuple[str, int] | None:
        """Nobody listened there. Returns the life that was asked, if it was no member."""
        self.canary.bounced(subject)
        return self._strangers.pop(subject, None)

    def refused(self, subject: str) -> None:
        """The broker did not take what was sent there, or some of it."""
        self.refusals += 1
        self.canary.refused(subject)

    def take(self, batch: Batch, frame: Frame) -> None:
        """A probe came in."""
        kind = type(frame)
        if kind is Ping:
            self._on_ping(batch, frame)  # type: ignore[arg-type]
        elif kind is Pong:
            self._on_pong(batch, frame)  # type: ignore[arg-type]
        elif kind is Ask:
            self._knowledge.asked(batch.reply_to, frame)  # type: ignore[arg-type]
        elif kind is Tell:
            self._knowledge.told(batch.node_id, frame)  # type: ignore[arg-type]

    def _on_ping(self, batch: Batch, ping: Ping) -> None:
        if batch.reply_to == self._reply_box:
            self.canary.echoed()
            if self._echo is not None and not self._echo.done():
                self._echo.set_result(None)
            return
        now = self._loop.time()
        if now - self._second > 1.0:
            self._second, self._pongs = now, 0
        self._pongs += 1
        try:
            if self._pongs > MAX_PONGS:
                raise OverloadedError(f"more than {MAX_PONGS} pings a second")
            self._outbox.put(batch.reply_to, self._pong(batch.node_id, batch.incarnation, ping.nonce))
        except OverloadedError:
            self._counters["dropped_pongs"] += 1

    def _pong(self, node_id: str, incarnation: int, nonce: int = 0) -> Pong:
        knowledge = self._knowledge
        return Pong(knowledge.known_incarnation(node_id), nonce, knowledge.ended(node_id, incarnation))

    def _on_pong(self, batch: Batch, pong: Pong) -> None:
        if batch.node_id == self._me()[0] and pong.nonce == self._nonce:
            self._knowledge.replaced(batch.incarnation)
        self._knowledge.heard_of_itself(pong.incarnation, pong.ended)
        waiting = self._greeted.get(batch.node_id)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)
