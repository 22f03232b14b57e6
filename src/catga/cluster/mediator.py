"""`DistributedMediator`: the verbs of a mediator, reaching a cluster."""

import asyncio
import logging
import random
import time
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from catga.abc import Backend, RoutingStrategy
from catga.backends import redact
from catga.cluster.delivery import Delivery
from catga.cluster.explain import Explanation, explain
from catga.cluster.intercept import outgoing_headers, through, through_or_raise, with_interceptors
from catga.cluster.load import LoadMeter
from catga.cluster.options import ClusterOptions, default_routing
from catga.cluster.outliers import Outliers
from catga.cluster.scatter import Broadcast, Gathered, broadcast, gather
from catga.cluster.table import Pool, RoutingTable
from catga.codec import Codec
from catga.errors import (
    CatgaError,
    ClosedError,
    ClusterError,
    NodeNotFoundError,
    NoNodeAvailableError,
)
from catga.mediator import Mediator
from catga.mediator.registry import handler_not_found
from catga.membership import Membership, Watcher
from catga.messages import Event, Request
from catga.node import NodeChangeEvent, NodeChangeType, NodeInfo, NodeState
from catga.result import CatgaResult, Failure, ResultMetadata, Success
from catga.routing import Candidates, RoundRobin, Stats
from catga.routing.inner import check_inner
from catga.rpc.peer import GREET_TIMEOUT, GREETED, Peer
from catga.rpc.server import Endpoint

R = TypeVar("R")

logger = logging.getLogger("catga.cluster")

JOIN_GRACE = 2.0
"""Seconds on top of the connect timeout, so that the backend's own error, which has the cause, comes first."""
ONLY = RoundRobin()
"""The strategy of a pool of one."""
NOBODY = Candidates()
LEFT_GRACE = 0.5
"""Seconds that replies sent before a graceful leave may still be behind the news of it."""


class DistributedMediator(Mediator):
    """A `Mediator` whose verbs reach every node of the cluster. Made by `add_cluster`.

    Enter it to connect, register and start heartbeats; leaving it drains, unregisters and closes.
    """

    def __init__(self, mediator: Mediator, options: ClusterOptions, backend: Backend) -> None:
        super().__init__(resolver=mediator.resolver)
        self._options = options
        self._backend = backend
        self.registry = mediator.registry
        self.registry.on_change(self._handlers_changed)
        self._metadata = ResultMetadata(options.node_id, 1)
        self._codecs: dict[type, Codec] = {}
        self._endpoints: dict[str, Endpoint] = {}
        self._link = asyncio.Event()
        self._running = False
        self._started = False
        self._strategies: dict[type, RoutingStrategy] = {}
        self._resolved: dict[type, RoutingStrategy] = {}

    # -- verbs ----------------------------------------------------------------------------------------

    def send(self, request: Request[R]) -> Coroutine[Any, Any, CatgaResult[R]]:
        """Run the request's handler on one node of the cluster, chosen by the routing strategy.

        Returns ``Success(value)`` or ``Failure(error)``; ``metadata`` tells the node and the attempts.
        Besides what `Mediator.send` returns: `NoNodeAvailableError`, `OverloadedError` (every candidate is
        full), `MaybeExecutedError` (the node was lost in mid-call and the request is not idempotent),
        `CatgaTimeoutError`, `InvalidMessageError` (also: too large for the broker), `ClosedError`.
        """
        if self.registry.interceptors:
            return through(self.registry.interceptors, request, lambda message: self._send(message, None))
        return self._send(request, None)

    async def send_to_node(self, request: Request[R], node_id: str) -> CatgaResult[R]:
        """Run the request's handler on that node. `NodeNotFoundError` if it is no member."""
        if self.registry.interceptors:
            result: CatgaResult[R] = await through(
                self.registry.interceptors, request, lambda message: self._send(message, node_id)
            )
            return result
        return await self._send(request, node_id)

    def publish(self, event: Event) -> Coroutine[Any, Any, CatgaResult[None]]:
        """Deliver the event once to each *service* that has a handler for it: to one of its nodes.

        Returns when all handlers have run. With no subscriber, nothing happens. ``Failure`` has what failed.
        """
        if self.registry.interceptors:
            return through(self.registry.interceptors, event, self._publish)
        return self._publish(event)

    async def broadcast(self, event: Event) -> Broadcast:
        """Deliver the event to every node, this one included, exactly once each.

        Returns who acknowledged (their handlers, if any, have run) and who did not, with the reason.
        """
        closed = self._not_running()
        if closed is not None:
            raise closed
        codec = self._codec(type(event))

        def to_all(event: Event) -> Coroutine[Any, Any, Broadcast]:
            return broadcast(self._membership.view.nodes(), lambda node: self._to_node(event, codec, node))

        if self.registry.interceptors:
            acknowledged: Broadcast = await through_or_raise(self.registry.interceptors, event, to_all)
            return acknowledged
        return await to_all(event)

    async def send_to_all(self, request: Request[R], *, timeout: float | None = None) -> Gathered[R]:
        """Run the request's handler on every node that has one, draining nodes excepted.

        Args:
            timeout: seconds, over the message's own and the cluster's.

        Returns the answer of each, and why the others gave none. Raises `ClosedError`, `InvalidMessageError`,
        and `HandlerNotFoundError` if no node has a handler.
        """
        closed = self._not_running()
        if closed is not None:
            raise closed
        codec = self._codec(type(request))
        nodes = [
            node
            for node in self._membership.view.nodes()
            if codec.name in node.handles and node.state is not NodeState.DRAINING
        ]
        if not nodes:
            raise self._nobody(codec.name)

        def to_all(request: Request[R]) -> Coroutine[Any, Any, Gathered[R]]:
            return gather(nodes, lambda node: self._to_node(request, codec, node, timeout))

        if self.registry.interceptors:
            gathered: Gathered[R] = await through_or_raise(self.registry.interceptors, request, to_all)
            return gathered
        return await to_all(request)

    def route(self, message_type: type, strategy: RoutingStrategy) -> None:
        """Route messages of this class, and of those derived from it, by `strategy`, not by the cluster's.

        Raises:
            TypeError: `strategy` is none.
            InvalidMessageError: it cannot route this class, e.g. `ConsistentHash` without a ``key``.
        """
        check_inner(default_routing(strategy), message_type)
        self._strategies[message_type] = strategy
        self._resolved.clear()

    def explain(self, message: Request[Any] | Event) -> Explanation:
        """Why `message` would go where it goes if it was sent now. Nothing is sent, and no turn is used up.

        Raises `ClosedError` before the start, and `InvalidMessageError` for what is no message.
        """
        self._require_started()
        name = self._codec(type(message)).name
        nodes = self._table.routes(name).nodes
        return explain(
            message, name, self._membership.view.nodes(), nodes, self._strategy(type(message)), self._outliers
        )

    # -- the cluster ----------------------------------------------------------------------------------

    @property
    def node_id(self) -> str:
        """This node's id."""
        return self._options.node_id

    @property
    def current_node(self) -> NodeInfo:
        """This node as it presents itself to the others. Raises `ClosedError` before the start."""
        self._require_started()
        return self._membership.me

    def get_nodes(self) -> list[NodeInfo]:
        """All members as this node sees them, itself included, sorted by id. From memory."""
        self._require_started()
        return self._membership.view.snapshot()

    def watch(self) -> Watcher:
        """Changes of the membership: first every member as ``joined``, then what happens."""
        self._require_started()
        return self._membership.watch()

    @property
    def not_ready(self) -> str | None:
        """Why this node should get no traffic now; None while it is well."""
        closed = self._not_running()
        if closed is not None:
            return closed.message
        if not self._link.is_set():
            return "the link to the broker is down"
        refusing = self._peer.server.refusing
        return None if refusing is None else refusing.message

    @property
    def counters(self) -> Mapping[str, int]:
        """How often what happened on this node since its start, by name."""
        self._require_started()
        server, client = self._peer.server, self._peer.client
        return {
            **self._peer.counters,
            "refused": server.refused,
            "dropped_expired": server.dropped,
            "late_replies": client.late,
            "pending_calls": client.pending,
            "batches": self._peer.batches,
            "failovers": self._delivery.failovers,
            "heartbeats": self._membership.heartbeats,
        }

    # -- lifecycle ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect, register, start heartbeats; the members know this node when it returns.

        Raises:
            ClusterError: the broker cannot be reached within ``connect_timeout``.
        """
        if self._started:
            raise ClosedError("a DistributedMediator is started once: make a new one with add_cluster")
        self._started = True
        options = self._options
        node = NodeInfo(
            node_id=options.node_id,
            endpoint=options.endpoint,
            service=options.service,
            metadata=dict(options.metadata),
            handles=self._handles(),
            incarnation=time.time_ns() // 1000,
        )
        self._meter = LoadMeter()
        self._membership = Membership(self._backend.discovery, node, self, options.membership, load=self._load)
        stats = Stats(self._load_of)
        self._table = RoutingTable(self._membership.view, stats, self.node_id)
        self._outliers = Outliers(options.outliers, stats, deaf=self._deaf)
        self._peer = Peer(
            self._backend.transport,
            node,
            options.prefix,
            self,
            endpoint=self._endpoint,
            not_found=self._not_found,
            load=self._load,
            max_concurrency=options.max_concurrency,
            max_queue=options.max_queue,
            signer=options.signer,
        )
        try:
            async with asyncio.timeout(options.connect_timeout + JOIN_GRACE):
                await self._join()
        except TimeoutError as error:
            await self._abandon()
            where = redact(options.url)
            raise ClusterError(f"could not join {where} within {options.connect_timeout:g} s") from error
        except BaseException:
            await self._abandon()
            raise
        self._running = True

    async def drain(self) -> None:
        """Take no more work and finish what was accepted, within ``drain_timeout`` seconds.

        The others hear of it and choose other nodes; what still comes is refused and goes elsewhere. This
        node may go on sending.
        """
        self._require_started()
        if self._membership.me.state is NodeState.DRAINING:
            return
        try:
            await self._membership.update(state=NodeState.DRAINING)
        except ClusterError as error:
            logger.warning("could not announce draining", extra={"catga_error": str(error)})
        self._peer.server.refuse(ClosedError(f"node {self.node_id} is draining"))
        try:
            async with asyncio.timeout(self._options.drain_timeout):
                await self._peer.server.idle()
        except TimeoutError:
            logger.warning(
                "drain timed out: handlers still running are cancelled",
                extra={"catga_running": self._peer.server.inflight},
            )

    async def stop(self) -> None:
        """Drain, unregister and close. Does nothing if it is not running."""
        if not self._running:
            return
        try:
            await self.drain()
            async with asyncio.timeout(max(self._options.drain_timeout, 5.0)):
                await self._quietly(self._peer.close_inbox())
                await self._peer.server.close()
                await self._peer.flush()
                await self._membership.leave()
        except TimeoutError:
            logger.warning("the broker did not take the last messages in time")
        finally:
            self._running = False
            await self._abandon()

    async def __aenter__(self) -> "DistributedMediator":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # -- catga.membership.Host ------------------------------------------------------------------------

    def ping(self, node: NodeInfo) -> None:
        self._peer.ping(node.node_id, node.incarnation)

    def on_change(self, event: NodeChangeEvent) -> None:
        node = event.node
        if event.type is NodeChangeType.LEFT:
            self._outliers.forget(node.node_id)
            graceful = event.reason is not None and event.reason.value == "drained"
            if graceful:
                asyncio.get_running_loop().call_later(
                    LEFT_GRACE, self._peer.client.node_left, node.node_id, node.incarnation
                )
            else:
                self._peer.client.node_left(node.node_id, node.incarnation)
        elif node.state is NodeState.SUSPECT:
            self._peer.client.node_silent(node.node_id, node.incarnation)

    def on_fenced(self, incarnation: int) -> None:
        self._peer.server.refuse(ClosedError(f"node {self.node_id} was replaced by incarnation {incarnation}"))

    async def on_rejoin(self, incarnation: int) -> None:
        await self._peer.open_inbox(incarnation)

    # -- catga.rpc.peer.Listener ----------------------------------------------------------------------

    def heard(self, node_id: str, incarnation: int, load: float) -> None:
        self._membership.heard(node_id, incarnation, load)

    def outgrown(self, incarnation: int) -> None:
        self._membership.outgrown(incarnation)

    def unlistened(self, node_id: str, incarnation: int) -> None:
        self._membership.unlistened(node_id, incarnation)

    def silent(self, node_id: str, incarnation: int) -> None:
        self._membership.silent(node_id, incarnation)

    def known_incarnation(self, node_id: str) -> int:
        return self._membership.view.known_incarnation(node_id)

    def members(self) -> Sequence[NodeInfo]:
        others = [node for node in self._membership.view.nodes() if node.node_id != self.node_id]
        return others if len(others) <= GREETED else random.sample(others, GREETED)

    def link(self, up: bool) -> None:
        if up == self._link.is_set():
            return
        if up:
            self._link.set()
            logger.info("the link to the broker is up", extra={"catga_url": redact(self._options.url)})
            self._membership.link_up()
        else:
            self._link.clear()
            logger.warning("the link to the broker is down", extra={"catga_url": redact(self._options.url)})

    # -- inside: sending ------------------------------------------------------------------------------

    async def _send(self, message: Request[R], node_id: str | None) -> CatgaResult[R]:
        closed = self._not_running()
        if closed is not None:
            return Failure(closed)
        try:
            codec = self._codec(type(message))
        except CatgaError as error:
            return Failure(error)
        if node_id is not None:
            node = self._membership.view.get(node_id)
            if node is None:
                known = ", ".join(n.node_id for n in self._membership.view.nodes())
                return Failure(NodeNotFoundError(f"no node {node_id!r}; the members are {known}"))
            return await self._to_node(message, codec, node)
        if not self._table.routes(codec.name).nodes:
            return Failure(self._nobody(codec.name))

        def pool() -> Candidates:
            return self._table.routes(codec.name).nodes

        return await self._deliver(message, codec, pool, self._strategy(codec.cls))

    async def _publish(self, event: Event) -> CatgaResult[None]:
        closed = self._not_running()
        if closed is not None:
            return Failure(closed)
        try:
            codec = self._codec(type(event))
        except CatgaError as error:
            return Failure(error)
        services = self._table.routes(codec.name).services
        if len(services) == 1:
            return await self._to_service(event, codec, services[0][0].service)
        results = await asyncio.gather(*(self._to_service(event, codec, group[0].service) for group in services))
        failed = next((result for result in results if isinstance(result, Failure)), None)
        return failed or Success(None, self._metadata)

    async def _to_service(self, event: Event, codec: Codec, service: str) -> CatgaResult[None]:
        def pool() -> Candidates:
            groups = self._table.routes(codec.name).services
            return next((group for group in groups if group[0].service == service), NOBODY)

        return await self._deliver(event, codec, pool, self._strategy(codec.cls))

    async def _to_node(
        self, message: Any, codec: Codec, node: NodeInfo, timeout: float | None = None
    ) -> CatgaResult[Any]:
        alone = self._table.alone(node)

        def pool() -> Candidates:
            member = self._membership.view.get(node.node_id)
            return alone if member is not None and member.incarnation == node.incarnation else NOBODY

        return await self._deliver(message, codec, pool, ONLY, timeout)

    async def _deliver(
        self, message: Any, codec: Codec, pool: Pool, strategy: RoutingStrategy, timeout: float | None = None
    ) -> CatgaResult[Any]:
        local = self._endpoint(codec.name)
        headers = outgoing_headers() if self.registry.interceptors else None
        if local is not None and local.receiving is not None:
            local = local.receiving(headers or {})
        result = await self._delivery.deliver(message, codec, pool, strategy, local, timeout, headers)
        if isinstance(result, Failure) and type(result.error) is ClusterError:
            error = NoNodeAvailableError(str(result.error))
            error.__cause__ = result.error
            return Failure(error, result.metadata)
        return result

    def _strategy(self, cls: type) -> RoutingStrategy:
        found = self._resolved.get(cls)
        if found is None:
            owner = next((base for base in cls.__mro__ if base in self._strategies), None)
            found = self._options.routing if owner is None else self._strategies[owner]
            self._resolved[cls] = found
        return found

    def _codec(self, cls: type) -> Codec:
        codec = self._codecs.get(cls)
        if codec is None:
            codec = self._codecs[cls] = Codec(cls)
        return codec

    def _nobody(self, name: str) -> CatgaError:
        if self._table.was_handled(name):
            return NoNodeAvailableError(f"no node that handles {name} is available any more")
        return handler_not_found(name, {n: tuple(ids) for n, ids in self._table.handled().items()})

    def _not_found(self, name: str) -> CatgaError:
        return handler_not_found(name, dict.fromkeys(self.registry.names, (self.node_id,)))

    def _not_running(self) -> ClosedError | None:
        if self._running:
            return None
        verb = "has left the cluster" if self._started else "has not joined the cluster: use it as `async with`"
        return ClosedError(f"node {self.node_id} {verb}")

    def _require_started(self) -> None:
        if not self._started:
            raise ClosedError(f"node {self.node_id} has not joined the cluster: use it as `async with`")

    # -- inside: receiving ----------------------------------------------------------------------------

    def _endpoint(self, name: str) -> Endpoint | None:
        endpoint = self._endpoints.get(name)
        if endpoint is None:
            cls = self.registry.names.get(name)
            pipeline = None if cls is None else self.registry.compile(cls, self._metadata)
            if cls is None or pipeline is None:
                return None
            endpoint = Endpoint(self._codec(cls), pipeline.run, pipeline.direct)
            if self.registry.interceptors:
                endpoint = with_interceptors(endpoint, self.registry.interceptors, self._metadata)
            self._endpoints[name] = endpoint
        return endpoint

    def _handles(self) -> tuple[str, ...]:
        for cls in self.registry.names.values():
            self._codec(cls)  # what cannot travel is an error at the start, not at the first call
        return tuple(sorted(self.registry.names))

    def _handlers_changed(self) -> None:
        self._endpoints.clear()
        if self._running:
            task = asyncio.ensure_future(self._quietly(self._membership.update(handles=self._handles())))
            self._updates.add(task)
            task.add_done_callback(self._updates.discard)

    def _load(self) -> float:
        if self._options.load is not None:
            return max(float(self._options.load()), 0.0)
        return round(self._meter.read(self._peer.server.load), 3)

    def _load_of(self, node_id: str) -> float:
        return self._load() if node_id == self.node_id else self._membership.view.load(node_id)

    def _deaf(self) -> bool:
        silence = self._membership.hearing.silence
        return not self._link.is_set() or silence > 2 * self._options.probe_interval

    # -- inside: lifecycle ----------------------------------------------------------------------------

    async def _join(self) -> None:
        self._updates: set[asyncio.Future[None]] = set()
        await self._peer.start()
        self._link.set()
        self._delivery = Delivery(
            self._peer,
            self._options.prefix,
            self._link,
            self._backend.transport.max_payload,
            self._outliers,
            request_timeout=self._options.request_timeout,
        )
        await self._membership.sync()
        await self._peer.open_inbox(self._membership.me.incarnation)
        await self._peer.echo()
        await self._peer.greet(
            self.members(), GREET_TIMEOUT
        )  # a former life on a clock ahead of this one's is heard of here
        await self._peer.open_inbox(self._membership.me.incarnation)
        await self._membership.join()
        await self._peer.greet(self.members(), GREET_TIMEOUT)  # they know this node when `start` returns

    async def _abandon(self) -> None:
        """Free everything, whatever state it is in."""
        self._meter.close()
        await self._quietly(self._membership.leave())
        await self._quietly(self._peer.close())

    async def _quietly(self, step: Coroutine[Any, Any, None]) -> None:
        try:
            await step
        except ClusterError as error:
            logger.warning("the bus failed while the node was leaving", extra={"catga_error": str(error)})
