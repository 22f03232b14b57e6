"""A broker in a simulated world: subjects, queue groups, "nobody listens", and a store. It may be split in two."""

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from simulation import Wire, World

if TYPE_CHECKING:
    from simulated_link import Link

Records = dict[str, tuple[bytes, float]]
"""Node → its record, and when it was written."""


class Msg:
    """A message as nats-py hands it over."""

    __slots__ = ("data", "headers", "reply", "subject")

    def __init__(self, subject: str, data: bytes, reply: str = "", headers: dict[str, str] | None = None) -> None:
        self.subject, self.data, self.reply, self.headers = subject, data, reply, headers


OnMessage = Callable[[Msg], Coroutine[Any, Any, None]]


class Sub:
    """A subscription of a process. The broker has an entry for it in each session that it knows."""

    __slots__ = ("callback", "last", "link", "open", "queue", "subject")

    def __init__(self, link: "Link", subject: str, queue: str, callback: OnMessage) -> None:
        self.link, self.subject, self.queue, self.callback = link, subject, queue, callback
        self.open = True
        self.last = 0.0


class Session:
    """One TCP connection. In order both ways; what a broken path holds back comes when it heals."""

    def __init__(self, link: "Link") -> None:
        self.link = link
        self.known = True  # to the broker
        self.used = True  # by the client
        self.subs: dict[Sub, None] = {}
        self.outbound = 0.0
        self.held: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self.held_back: list[tuple[Callable[..., None], tuple[Any, ...]]] = []


class Broker:
    """Subjects, queue groups, "no responders", and a store of records with leases.

    Attributes:
        split: the servers do not reach each other: each side of the links has the subscriptions of its own side only.
        prefers_own: of a queue group, members on the sender's side come first, as with a leaf node or a gateway.
        overheard: somebody listens to every subject, so that "nobody listens" is never said.
    """

    def __init__(self, world: World, wire: Wire) -> None:
        self.world = world
        self.wire = wire
        self.up = True
        self.up_since = 0.0
        self.down_at = 0.0
        self.frozen = False
        self.split = False
        self.prefers_own = False
        self.overheard = False
        self.links: list[Link] = []
        self.store: Records = {}
        self._other_store: Records = {}  # of the other side, while it is split
        self._entries: dict[str, dict[tuple[Session, Sub], None]] = {}
        self._waiting: list[tuple[Callable[..., None], tuple[Any, ...]]] = []

    def do(self, call: Callable[..., None], *args: Any) -> None:
        """Run it now, or when the broker is no longer frozen; never if it was killed."""
        if self.frozen:
            self._waiting.append((call, args))
        elif self.up:
            call(*args)

    def records(self, side: int) -> Records:
        """The store that links of this side read and write."""
        return self._other_store if self.split and side else self.store

    def part(self) -> None:
        """Split in two. Links stay up."""
        self.split, self._other_store = True, dict(self.store)

    def heal(self) -> None:
        """Be one again. With the store of one side; what the other side wrote meanwhile is lost."""
        self.split = False

    def freeze(self) -> None:
        self.frozen, self.down_at = True, self.world.now
        for link in self.links:
            link.suspect_path()

    def thaw(self) -> None:
        if self.frozen:
            self.frozen, self.up_since = False, self.world.now
        waiting, self._waiting = self._waiting, []
        for call, args in waiting:
            self.do(call, *args)

    def kill(self) -> None:
        """The process ends, and with it all connections, subscriptions and records."""
        self.up, self.frozen, self.down_at = False, False, self.world.now
        self._waiting.clear()
        self._entries.clear()
        self.store.clear()
        for link in self.links:
            session = link.session
            if session is not None:
                session.known = False
                session.subs.clear()
                if not link.deaf:
                    self.world.after(0.001, link.lose, session)

    def start(self) -> None:
        self.up, self.up_since = True, self.world.now

    def subscribe(self, session: Session, sub: Sub) -> None:
        if session.known and sub.open:
            session.subs[sub] = None
            self._entries.setdefault(sub.subject, {})[session, sub] = None

    def unsubscribe(self, session: Session, sub: Sub) -> None:
        session.subs.pop(sub, None)
        self._forget(session, sub)

    def close(self, session: Session) -> None:
        """The connection ended: the broker knows that nobody listens there any more."""
        session.known = False
        for sub in session.subs:
            self._forget(session, sub)
        session.subs.clear()

    def publish(self, session: Session, subject: str, data: bytes, reply: str) -> None:
        if not session.known:
            return
        if self.world.random.random() < self.wire.loss:
            return
        found = [*self._entries.get(subject, ()), *self._entries.get(subject[: subject.rfind(".")] + ".*", ())]
        if self.split:
            found = [each for each in found if each[0].link.side == session.link.side]
        if not found and reply and not self.overheard:
            self._bounce(session, reply)
        groups: dict[str, list[tuple[Session, Sub]]] = {}
        for to, sub in found:
            if sub.queue:
                groups.setdefault(sub.queue, []).append((to, sub))
            else:
                self._deliver(to, sub, Msg(subject, data, reply))
        for group in groups.values():
            own = [each for each in group if each[0].link.side == session.link.side] if self.prefers_own else []
            self._deliver(*self.world.random.choice(own or group), Msg(subject, data, reply))

    def _bounce(self, session: Session, reply: str) -> None:
        for sub in session.subs:
            if sub.subject == reply or (sub.subject.endswith(".>") and reply.startswith(sub.subject[:-1])):
                self._deliver(session, sub, Msg(reply, b"", "", {"Status": "503"}), twice=0.0)

    def _deliver(self, session: Session, sub: Sub, message: Msg, twice: float = 1.0) -> None:
        chance, wire = self.world.random, self.wire
        if chance.random() >= wire.loss:
            # in order within a subscription, not between two of them
            sub.last = max(sub.last, self.world.now + wire.delay + chance.random() * wire.spread)
            self.world.at(sub.last, session.link.arrive, session, _call, sub, message)
        if chance.random() < wire.twice * twice:
            again = self.world.now + wire.delay + chance.random() * max(wire.late, wire.spread)
            self.world.at(again, self.do, session.link.arrive, session, _call, sub, message)

    def _forget(self, session: Session, sub: Sub) -> None:
        entries = self._entries.get(sub.subject, {})
        entries.pop((session, sub), None)
        if not entries:
            self._entries.pop(sub.subject, None)


def _call(sub: Sub, message: Msg) -> None:
    """Hand a message over. The callbacks of discovery and transport never wait."""
    if not sub.open:
        return
    try:
        sub.callback(message).send(None)
    except StopIteration:
        return
    raise AssertionError(f"the callback of {sub.subject} waits for something")
