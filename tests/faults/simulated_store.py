"""Discovery with a store, in a simulated world."""

from collections.abc import Callable, Iterable, Sequence

from simulated_broker import Msg, Records, Sub
from simulated_link import Link

from catga.abc import Departure, Observation, Sighting
from catga.membership.records import decode_announcement, decode_record, encode_departure, encode_record
from catga.node import NodeInfo


class StoreDiscovery:
    """`NodeDiscovery` as with Redis: records under a lease, one channel of changes, no memory of departures."""

    def __init__(self, link: Link, prefix: str, ttl: float) -> None:
        self._link = link
        self._channel = f"{prefix}.changes"
        self._ttl = ttl
        self._sub: Sub | None = None
        self._observe: Callable[[Observation], None] = lambda _: None

    @property
    def _records(self) -> Records:
        return self._link.broker.records(self._link.side)

    async def register(self, node: NodeInfo) -> None:
        if await self._store(node):
            self._link.publish([(self._channel, encode_record(node), "")])

    async def heartbeat(self, node: NodeInfo) -> None:
        await self._store(node)

    async def unregister(self, end: Departure) -> None:
        def remove() -> None:
            stored = self._records.get(end.node_id)
            if stored is not None and decode_record(stored[0]).version <= end.version:
                del self._records[end.node_id]

        await self._link.ask(remove)
        self._link.publish([(self._channel, encode_departure(end), "")])

    async def _store(self, node: NodeInfo) -> bool:
        """Whether it is stored now. An older record never replaces a newer one, which is news."""

        def write() -> bytes | None:
            stored = self._records.get(node.node_id)
            if stored is not None and decode_record(stored[0]).version > node.version:
                return stored[0]
            self._records[node.node_id] = (encode_record(node), self._link.world.now)
            return None

        newer: bytes | None = await self._link.ask(write)
        if newer is not None:
            self._observe(Sighting(decode_record(newer)))
        return newer is None

    async def get_nodes(self) -> Sequence[Observation]:
        def read() -> list[Observation]:
            now = self._link.world.now
            return [
                Sighting(decode_record(record), now - at)
                for record, at in self._records.values()
                if now - at <= self._ttl
            ]

        found: list[Observation] = await self._link.ask(read)
        return found

    async def watch(
        self, observe: Callable[[Observation], None], recall: Callable[[], Iterable[Observation]] | None
    ) -> None:
        await self._link.open()
        self._observe = observe

        async def on_change(message: Msg) -> None:
            observe(decode_announcement(message.data))

        self._sub = await self._link.subscribe(self._channel, on_change)

    async def aclose(self) -> None:
        if self._sub is not None:
            sub, self._sub = self._sub, None
            await self._link.unsubscribe(sub)
            await self._link.close()
