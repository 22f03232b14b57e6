"""``memory://name``: a bus within one event loop. The default: nothing to install, nothing to start.

The same bytes travel as over a broker, later than the call that sends them, so that what works here works
there.
"""

import asyncio
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from urllib.parse import urlsplit

from catga.abc import Backend, BackendSettings, Departure, Observation, Outgoing, Sighting, TransportListener
from catga.backends import redact
from catga.backends.options import check_options
from catga.errors import ClusterError
from catga.membership.records import decode_record, encode_record
from catga.node import NodeInfo

MAX_PAYLOAD = 1024 * 1024
"""Bytes, as a NATS server's default: what fits here fits there."""


class Hub:
    """What the nodes of one name share: who listens where, and the records."""

    def __init__(self) -> None:
        self.subscribers: dict[str, set[MemoryTransport]] = {}
        self.shared: dict[str, deque[MemoryTransport]] = {}
        self.records: dict[str, tuple[bytes, float]] = {}
        self.watchers: dict[MemoryNodeDiscovery, Callable[[Observation], None]] = {}

    def receivers(self, message: Outgoing) -> "list[MemoryTransport]":
        """Who gets a message: all that listen, or, if it is shared, each in turn."""
        if not message.shared:
            return list(self.subscribers.get(message.subject, ()))
        sharing = self.shared.get(message.subject)
        if not sharing:
            return []
        sharing.rotate(-1)
        return [sharing[-1]]

    def tell(self, observation: Observation) -> None:
        """Let every watcher know."""
        loop = asyncio.get_running_loop()
        for watcher in self.watchers:
            loop.call_soon(self._observe, watcher, observation)

    def _observe(self, watcher: "MemoryNodeDiscovery", observation: Observation) -> None:
        observe = self.watchers.get(watcher)
        if observe is not None:
            observe(observation)


_hubs: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Hub]]" = weakref.WeakKeyDictionary()


def hub(name: str) -> Hub:
    """The hub of that name in the running loop."""
    return _hubs.setdefault(asyncio.get_running_loop(), {}).setdefault(name, Hub())


def open_backend(settings: BackendSettings) -> Backend:
    """The backend of a ``memory://name`` URL, which has no options.

    Raises:
        TypeError: an option is given.
        ValueError: the URL has one.
    """
    check_options(settings.options, {}, "memory")
    parts = urlsplit(settings.url)
    if parts.query or parts.fragment:
        raise ValueError(f"memory:// takes no options in its URL, got {redact(settings.url)!r}")
    name = f"{settings.prefix}/{parts.netloc}{parts.path}"
    return Backend(MemoryNodeDiscovery(name, settings.ttl), MemoryTransport(name))


class MemoryNodeDiscovery:
    """`NodeDiscovery` in a dictionary."""

    def __init__(self, name: str, ttl: float) -> None:
        self._name = name
        self._ttl = ttl

    async def register(self, node: NodeInfo) -> None:
        await self.heartbeat(node)
        hub(self._name).tell(Sighting(decode_record(encode_record(node))))

    async def unregister(self, end: Departure) -> None:
        here = hub(self._name)
        stored = here.records.get(end.node_id)
        if stored is not None and decode_record(stored[0]).version <= end.version:
            del here.records[end.node_id]
        here.tell(end)

    async def heartbeat(self, node: NodeInfo) -> None:
        records = hub(self._name).records
        stored = records.get(node.node_id)
        if stored is None or decode_record(stored[0]).version <= node.version:
            records[node.node_id] = (encode_record(node), asyncio.get_running_loop().time())

    async def get_nodes(self) -> Sequence[Observation]:
        now = asyncio.get_running_loop().time()
        here = hub(self._name)
        for node_id in [i for i, (_, at) in here.records.items() if now - at > self._ttl]:
            del here.records[node_id]
        return [Sighting(decode_record(record), now - at) for record, at in here.records.values()]

    async def watch(
        self, observe: Callable[[Observation], None], recall: Callable[[], Iterable[Observation]] | None
    ) -> None:
        hub(self._name).watchers[self] = observe

    async def aclose(self) -> None:
        hub(self._name).watchers.pop(self, None)


class MemoryTransport:
    """`Transport` by ``call_soon``."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._listener: TransportListener | None = None
        self._subjects: set[str] = set()

    @property
    def max_payload(self) -> int:
        return MAX_PAYLOAD

    @property
    def is_up(self) -> bool:
        return self._listener is not None

    async def start(self, listener: TransportListener) -> None:
        self._listener = listener

    async def subscribe(self, subject: str, *, shared: bool = False) -> None:
        self._subjects.add(subject)
        here = hub(self._name)
        if shared:
            here.shared.setdefault(subject, deque()).append(self)
        else:
            here.subscribers.setdefault(subject, set()).add(self)

    async def unsubscribe(self, subject: str) -> None:
        self._subjects.discard(subject)
        here = hub(self._name)
        here.subscribers.get(subject, set()).discard(self)
        if not here.subscribers.get(subject):
            here.subscribers.pop(subject, None)
        if self in here.shared.get(subject, ()):
            here.shared[subject].remove(self)
            if not here.shared[subject]:
                del here.shared[subject]

    def publish(self, messages: Sequence[Outgoing]) -> bool:
        if self._listener is None:
            raise ClusterError("the memory transport is closed")
        loop = asyncio.get_running_loop()
        for message in messages:
            loop.call_soon(self._deliver, message)
        return True

    async def drain(self) -> None:
        """There is always room."""

    async def aclose(self) -> None:
        await asyncio.sleep(0)  # what was published is delivered first
        for subject in list(self._subjects):
            await self.unsubscribe(subject)
        self._listener = None

    def _deliver(self, message: Outgoing) -> None:
        receivers = hub(self._name).receivers(message)
        if receivers:
            for receiver in receivers:
                if receiver._listener is not None:
                    receiver._listener.on_message(message.payload)
        elif self._listener is not None:
            self._listener.on_undeliverable(message.subject, message.token)
