"""What a plug-in implements. Nothing here does I/O; everything built on these is in the rooms above.

A backend is a `NodeDiscovery` and a `Transport` behind one URL scheme. A routing strategy is a
`RoutingStrategy`, a step of the pipeline a `Behavior`.
"""

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar, runtime_checkable

import msgspec

from catga.node import WHOLE_LIFE, LeftReason, NodeInfo
from catga.result import CatgaResult

M = TypeVar("M")
T = TypeVar("T")
R = TypeVar("R")

CallNext: TypeAlias = Callable[[M], Awaitable[R]]
"""The rest of the pipeline: await it with the message, get the handler's value or its exception."""


class Behavior(Protocol):
    """A step of the pipeline around a handler.

    It may look at the message, replace it, refuse (raise), call the rest any number of times, and change
    the value. It sees plain values and exceptions; the `CatgaResult` is made once, outside.
    """

    async def __call__(self, message: Any, call_next: CallNext[Any, Any], /) -> Any: ...


@runtime_checkable
class HandlerBehavior(Behavior, Protocol):
    """A behavior that needs to know which handler it stands around, as an event has several."""

    def bound_to(self, handler: str, /) -> Behavior:
        """The step around the handler of that name (``module.qualname``, the same on every node)."""
        ...


@runtime_checkable
class NotReachedBehavior(Protocol):
    """A behavior that is told of the handlers of an event that were not reached."""

    async def not_reached(self, message: Any, handler: str, /) -> None:
        """The event was cancelled, by its deadline or its publisher, before the turn of the handler of that name."""
        ...


@runtime_checkable
class AdmissionBehavior(Protocol):
    """A behavior that lets messages in or refuses them. An event passes it once for all of its handlers, so that it is
    handled as a whole or not at all; around requests it is a step like others."""

    def admission(self, message: Any, /) -> AbstractAsyncContextManager[object]:
        """Return what is entered before the handlers of an event begin, and left when they have ended. It raises, when
        it is entered, for an event that is refused."""
        ...


Forward: TypeAlias = Callable[[Any, dict[str, str]], Coroutine[Any, Any, Any]]
"""The rest of the way: await it with the message and the headers to send along."""
Handle: TypeAlias = Callable[[Any], Coroutine[Any, Any, CatgaResult[Any]]]
"""The rest of the way on the node that runs the message: await it for the result."""


class Interceptor(Protocol):
    """Stands around the way of a message, where a `Behavior` stands around its handler.

    It sees the headers that travel with the message, on both ends, and the result. Nothing is raised through
    it but CancelledError: a failure is a `Failure`.
    """

    async def sending(self, message: Any, headers: dict[str, str], forward: Forward, /) -> Any:
        """Around a verb, where it is called: once, however many nodes are tried.

        Returns what `forward` returned: a `CatgaResult`, or a `Broadcast`. It may add headers (ASCII names,
        short values).
        """
        ...

    async def handling(self, message: Any, headers: Mapping[str, str], handle: Handle, /) -> CatgaResult[Any]:
        """Around behaviors and handlers, on the node that runs them. Headers come from others: trust nothing."""
        ...


class Resolver(Protocol):
    """Makes the object behind a class-based handler, with its dependencies."""

    def resolve(self, cls: type[T], /) -> AbstractAsyncContextManager[T]:
        """An instance for one message, released when the message is handled."""
        ...


@runtime_checkable
class RoutingStrategy(Protocol):
    """Picks one of the candidates. Synchronous, no I/O: it is on the path of every request."""

    def select(self, nodes: Sequence[NodeInfo], message: object) -> NodeInfo:
        """One of `nodes`, which is never empty and is sorted by ``node_id``.

        In a cluster it is a `catga.routing.Candidates`: the same object until the members change, with this
        node's calls in flight, latencies and the loads reported in ``nodes.stats``, and a ``memo`` for what is
        worked out from it. A node that this message was sent to before, in vain, is not among them.

        Raises:
            CatgaError: the message cannot be routed; its sender gets this as the failure.
        """
        ...


class Departure(NamedTuple):
    """An observation that a node is gone in this incarnation (and in all before it), since ``age`` seconds.

    It speaks of the records of that incarnation up to ``sequence``: a node that was buried alive returns with a record
    beyond it.
    """

    node_id: str
    incarnation: int
    reason: LeftReason
    age: float = 0.0
    sequence: int = WHOLE_LIFE

    @property
    def version(self) -> tuple[int, int]:
        """(incarnation, sequence): records up to this version are of the dead."""
        return (self.incarnation, self.sequence)


class Sighting(NamedTuple):
    """An observation of a node's record, ``age`` seconds after the node's last sign of life."""

    node: NodeInfo
    age: float = 0.0


Observation: TypeAlias = Sighting | Departure
"""What discovery hears. It may come late, twice, or out of order: the view (`catga.membership`) makes the
truth of it."""


class NodeDiscovery(Protocol):
    """Carries the members' records between nodes, and keeps them for late joiners.

    It judges nothing: order, duplicates and expiry are the view's work. Every method raises `ClusterError`
    when the bus cannot be reached, and returns or raises within a bounded time.
    """

    async def register(self, node: NodeInfo) -> None:
        """Store the whole record under its lease and tell the watchers. Idempotent: also used to refresh."""
        ...

    async def unregister(self, end: Departure) -> None:
        """Remove the record, unless its version is beyond that of `end`, and tell the watchers."""
        ...

    async def heartbeat(self, node: NodeInfo) -> None:
        """Refresh the lease without telling anybody. Stores the record again if it is gone."""
        ...

    async def get_nodes(self) -> Sequence[Observation]:
        """What the store, or the other members, know now. Absence proves nothing."""
        ...

    async def watch(
        self, observe: Callable[[Observation], None], recall: Callable[[], Iterable[Observation]] | None
    ) -> None:
        """Once this returned, everything heard is passed to `observe`, which neither raises nor blocks.

        Args:
            recall: what this node's own view holds; a discovery without a store answers others from it. None for
                an observer, which answers nobody.
        """
        ...

    async def aclose(self) -> None:
        """Stop watching and free what discovery itself opened."""
        ...


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """A message for the bus. ``token`` comes back in `TransportListener.on_undeliverable`. One that is ``shared`` is
    for one of those that subscribed to its subject as `shared`."""

    subject: str
    payload: bytes
    token: int
    shared: bool = False


class TransportListener(Protocol):
    """What a transport calls, in the event loop's thread; none of these may raise or block."""

    def on_message(self, payload: bytes, /) -> None:
        """A message came in on a subscribed subject."""
        ...

    def on_undeliverable(self, subject: str, token: int, /) -> None:
        """Nobody listened on `subject` when the message with `token` reached the broker."""
        ...

    def on_refused(self, subject: str, token: int, reason: str, /) -> None:
        """The broker refused the message with `token`, so that nobody got it; `reason` is what it said."""
        ...

    def on_doubt(self, subject: str, /) -> None:
        """The broker refused some of the last messages to `subject`, and does not say which."""
        ...

    def on_link(self, up: bool, /) -> None:
        """The connection to the broker went down, or is up again with all subscriptions in place."""
        ...

    def on_closed(self, reason: str, /) -> None:
        """The connection is down and never comes back: it was given to the transport, and has been closed since."""
        ...


class Transport(Protocol):
    """Moves bytes to subjects. Requests, replies, batches, deadlines and failover are built above it.

    Delivery is at most once and in order between two nodes while the link is up. A transport reconnects by
    itself, for ever, with jitter, and puts its subscriptions back before it reports the link as up. Only one that was
    given its connection may lose it for good (`TransportListener.on_closed`).
    """

    @property
    def max_payload(self) -> int:
        """The largest payload, in bytes, that the broker accepts. Known, and never raised for, once started."""
        ...

    @property
    def is_up(self) -> bool:
        """Whether the link to the broker is believed to work."""
        ...

    async def start(self, listener: TransportListener) -> None:
        """Connect. Raises `ClusterError` (which names the URL without its password) in a bounded time."""
        ...

    async def subscribe(self, subject: str, *, shared: bool = False) -> None:
        """Receive what is sent to `subject`; active at the broker when this returns.

        Args:
            shared: of all that subscribe so, one gets each message: the broker's choice. A subject is subscribed to
                either so by all or by none.
        """
        ...

    async def unsubscribe(self, subject: str) -> None:
        """Stop receiving; from now on the broker knows that nobody listens here."""
        ...

    def publish(self, messages: Sequence[Outgoing]) -> bool:
        """Hand messages to the broker, now and in as few writes as can be. Never waits.

        Returns whether there is room for more; if not, `drain` tells when there is.
        Raises `ClusterError` if the link is down: then none of `messages` was sent, unless its ``execution`` is
        ``MAYBE``: then some may have been.
        """
        ...

    async def drain(self) -> None:
        """Return once there is room for more. May wait for as long as the link is up, and is then cancelled."""
        ...

    async def aclose(self) -> None:
        """Flush what was published (bounded by a second) and disconnect."""
        ...


@runtime_checkable
class ExactCounting(Protocol):
    """A `Transport` that can find out who listens on exactly a subject, where others listen to everything."""

    def count_exactly(self) -> None:
        """Do so from now on: batches to subjects that nobody subscribed to by name are not reported any more."""
        ...


@runtime_checkable
class ForgeableBounces(Protocol):
    """A `Transport` whose reports that nobody listened can be made by whoever is on the bus."""

    bounces_can_be_forged: bool


@runtime_checkable
class Diagnosing(Protocol):
    """A `Transport` that knows why its link is not well, implements this."""

    @property
    def problem(self) -> str:
        """Why the link is down, or what the broker refuses now; empty while all is well. Asked in any thread."""
        ...


class RecordSigner(Protocol):
    """Signs the members' records, where `BackendSettings` has one."""

    def seal_record(self, label: str, record: bytes, /) -> bytes:
        """`record`, a JSON object, signed for the place that `label` names."""
        ...

    def open_record(self, label: str, sealed: bytes, /) -> bytes:
        """The record in `sealed`. Raises `InvalidMessageError` if it is not signed for `label`."""
        ...


class BackendSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a backend needs to know of the cluster.

    Attributes:
        url: as the user gave it.
        prefix: of every subject, channel and key: two clusters with different prefixes do not meet.
        ttl: seconds a stored record lives without a heartbeat.
        connect_timeout: seconds until an unreachable broker is an error at the start.
        signer: if given, discovery signs every record and departure with it, and ignores what is not signed.
        options: keyword arguments of ``add_nats_cluster`` and its like.
    """

    url: str
    prefix: str = "catga"
    ttl: float = 120.0
    connect_timeout: float = 10.0
    signer: RecordSigner | None = None
    options: dict[str, Any] = {}

    def __repr__(self) -> str:  # url and options have credentials
        return f"BackendSettings(prefix={self.prefix!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:  # rich does not ask for the repr
        return [("prefix", self.prefix)]


class Backend(NamedTuple):
    """A discovery and a transport behind one URL."""

    discovery: NodeDiscovery
    transport: Transport


BackendFactory: TypeAlias = Callable[[BackendSettings], Backend]
"""What an entry point of the group ``catga.backends`` names: no I/O, only checks of the settings."""
