"""A node whose link misbehaves: batches lost, late, or none at all; and a node that dies without a word."""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from catga.abc import (
    Backend,
    Departure,
    Diagnosing,
    ExactCounting,
    ForgeableBounces,
    NodeDiscovery,
    Observation,
    Outgoing,
    Transport,
    TransportListener,
)
from catga.cluster import DistributedMediator
from catga.errors import ClusterError
from catga.node import NodeInfo

__all__ = ["Faults", "inject"]

FLUSH_TIMEOUT = 1.0


class Faults:
    """What goes wrong with one node; made by `inject`. The attributes may be changed at any time.

    Attributes:
        delay: seconds that each outgoing batch is late; their order stays.
        drop: the share of outgoing batches that are lost, 0 to 1.
        is_partitioned: nothing goes out or comes in, and nobody is told.
    """

    def __init__(self, backend: Backend, seed: int) -> None:
        self.delay = 0.0
        self.drop = 0.0
        self.is_partitioned = False
        self.is_dead = False
        self._random = random.Random(seed)
        self._transport = _Transport(backend.transport, self)
        self.backend = Backend(_Discovery(backend.discovery, self), self._transport)

    async def kill(self) -> None:
        """End the node as SIGKILL would: nobody listens on its inbox any more, and it says nothing. What its
        handlers still do reaches nobody. Leaving its ``async with`` afterwards is harmless."""
        self.is_dead = True
        await self._transport.vanish()

    @property
    def is_cut_off(self) -> bool:
        """Whether nothing passes."""
        return self.is_dead or self.is_partitioned

    def is_lost(self) -> bool:
        """Whether the next batch is lost."""
        return self.is_cut_off or (self.drop > 0 and self._random.random() < self.drop)


def inject(cluster: DistributedMediator, *, seed: int = 0) -> Faults:
    """Let the link of `cluster`, which has not started yet, be troubled.

    Args:
        seed: which batches are lost.

    Raises:
        ClusterError: the node was started, so that its link is in use.
    """
    if cluster._node is not None or cluster._stopped:  # pyright: ignore[reportPrivateUsage]
        raise ClusterError(f"inject faults into node {cluster.node_id} before it starts: now they would have no effect")
    faults = Faults(cluster._backend, seed)  # pyright: ignore[reportPrivateUsage]
    cluster._backend = faults.backend  # pyright: ignore[reportPrivateUsage]
    return faults


class _Transport:
    def __init__(self, inner: Transport, faults: Faults) -> None:
        self._inner = inner
        self._faults = faults
        self._subjects: list[str] = []
        self._due = 0.0  # when the last late batch leaves
        self._late: deque[asyncio.TimerHandle] = deque()

    @property
    def max_payload(self) -> int:
        return self._inner.max_payload

    @property
    def is_up(self) -> bool:
        return self._inner.is_up

    @property
    def bounces_can_be_forged(self) -> bool:
        return isinstance(self._inner, ForgeableBounces) and self._inner.bounces_can_be_forged

    def count_exactly(self) -> None:
        if isinstance(self._inner, ExactCounting):
            self._inner.count_exactly()

    @property
    def problem(self) -> str:
        return self._inner.problem if isinstance(self._inner, Diagnosing) else ""

    async def start(self, listener: TransportListener) -> None:
        await self._inner.start(_Listener(listener, self._faults))

    async def subscribe(self, subject: str, *, shared: bool = False) -> None:
        self._subjects.append(subject)
        if not self._faults.is_dead:
            await self._inner.subscribe(subject, shared=shared)

    async def unsubscribe(self, subject: str) -> None:
        if subject in self._subjects:
            self._subjects.remove(subject)
            await self._inner.unsubscribe(subject)

    def publish(self, messages: Sequence[Outgoing]) -> bool:
        loop = asyncio.get_running_loop()
        now = loop.time()
        if not self._faults.delay and self._due <= now:
            return self._publish(messages)
        self._due = max(self._due + 1e-6, now + self._faults.delay)  # timers of one instant have no order
        self._late.append(loop.call_at(self._due, self._publish_late, messages))
        return True

    def _publish(self, messages: Sequence[Outgoing]) -> bool:
        kept = [message for message in messages if not self._faults.is_lost()]
        return self._inner.publish(kept) if kept else True

    def _publish_late(self, messages: Sequence[Outgoing]) -> None:
        self._late.popleft()
        with suppress(ClusterError):  # the link went down meanwhile: on the way, and lost with it
            self._publish(messages)

    async def drain(self) -> None:
        await self._inner.drain()

    async def vanish(self) -> None:
        for subject in list(self._subjects):
            with suppress(ClusterError):  # the link is down: nobody listens there now, and nobody will
                await self.unsubscribe(subject)

    async def aclose(self) -> None:
        if self._late and not self._faults.is_cut_off:
            await asyncio.sleep(min(self._due - asyncio.get_running_loop().time(), FLUSH_TIMEOUT))
        for timer in self._late:
            timer.cancel()
        self._late.clear()
        await self._inner.aclose()


class _Listener:
    def __init__(self, inner: TransportListener, faults: Faults) -> None:
        self._inner = inner
        self._faults = faults

    def on_message(self, payload: bytes, /) -> None:
        if not self._faults.is_cut_off:
            self._inner.on_message(payload)

    def on_undeliverable(self, subject: str, token: int, /) -> None:
        if not self._faults.is_cut_off:
            self._inner.on_undeliverable(subject, token)

    def on_refused(self, subject: str, token: int, reason: str, /) -> None:
        if not self._faults.is_cut_off:
            self._inner.on_refused(subject, token, reason)

    def on_doubt(self, subject: str, /) -> None:
        self._inner.on_doubt(subject)

    def on_link(self, up: bool, /) -> None:
        self._inner.on_link(up)

    def on_closed(self, reason: str, /) -> None:
        self._inner.on_closed(reason)


class _Discovery:
    def __init__(self, inner: NodeDiscovery, faults: Faults) -> None:
        self._inner = inner
        self._faults = faults

    async def register(self, node: NodeInfo) -> None:
        if not self._faults.is_cut_off:
            await self._inner.register(node)

    async def unregister(self, end: Departure) -> None:
        if not self._faults.is_cut_off:
            await self._inner.unregister(end)

    async def heartbeat(self, node: NodeInfo) -> None:
        if not self._faults.is_cut_off:
            await self._inner.heartbeat(node)

    async def get_nodes(self) -> Sequence[Observation]:
        return [] if self._faults.is_cut_off else await self._inner.get_nodes()

    async def watch(
        self, observe: Callable[[Observation], None], recall: Callable[[], Iterable[Observation]] | None
    ) -> None:
        def heard(observation: Observation) -> None:
            if not self._faults.is_cut_off:
                observe(observation)

        await self._inner.watch(heard, recall)

    async def aclose(self) -> None:
        await self._inner.aclose()
