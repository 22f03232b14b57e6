"""`Node`: one node's life. Puts membership, rpc, routing and delivery together, and takes them apart again."""

import asyncio
import logging
import math
import os
import time
import weakref
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from threading import get_ident
from typing import Any

from catga.abc import Backend, Diagnosing, ForgeableBounces
from catga.backends.joining import to_the_end
from catga.cluster.changes import Changes
from catga.cluster.delivery import Delivery
from catga.cluster.dispatch import Dispatch, Routing
from catga.cluster.handlers import Codecs, LocalHandlers
from catga.cluster.load import LoadMeter
from catga.cluster.options import ClusterOptions
from catga.cluster.outliers import Outliers
from catga.cluster.reading import Health, Reading, events_of
from catga.cluster.stats import NodeStats, Recorder, Stats
from catga.cluster.table import RoutingTable
from catga.errors import CatgaError, ClosedError, ClusterError
from catga.mediator.registry import Registry
from catga.mediator.settling import settled
from catga.membership import Membership
from catga.membership.witnesses import Question
from catga.node import LeftReason, NodeChangeEvent, NodeChangeType, NodeInfo, NodeState
from catga.routing import Stats as CallStats
from catga.rpc.peer import GREET_TIMEOUT, GREETED, Peer
from catga.rpc.runner import OnExit
from catga.rpc.wire import Ask, Tell

logger = logging.getLogger("catga.cluster")

JOIN_GRACE = 2.0
"""Seconds on top of the connect timeout, so that the backend's own error, which has the cause, comes first."""
MAX_LOAD = 1e6
CHANGES_TOGETHER = 0.1
"""Seconds in which changes of the members wake the events that wait for nodes once."""
LEFT_GRACE = 0.5
"""Seconds that the last replies of a node may be behind the news that it left, or that it was replaced."""
IDLE_GRACE = 30.0
"""Seconds between two looks whether an unreachable node still owes answers."""


_nodes: "weakref.WeakSet[Node]" = weakref.WeakSet()


class Node:
    """Implements `catga.membership.Host` and `catga.rpc.peer.Listener`.

    Make it in a running event loop; `start` it once.

    Args:
        on_exit: told that a handler wants to end the program.
    """

    def __init__(
        self, options: ClusterOptions, backend: Backend, registry: Registry, routing: Routing, on_exit: OnExit
    ) -> None:
        self._options = options
        self.exits = on_exit
        self.loop = asyncio.get_running_loop()
        self.pid, self.thread_id = os.getpid(), get_ident()
        _nodes.add(self)
        self._backend = backend
        self._link = asyncio.Event()
        self._changed, self._link_changed = Changes(CHANGES_TOGETHER), Changes()
        self._alive = False
        self._updates: set[asyncio.Future[None]] = set()
        codecs = Codecs()
        self._recorder = Recorder()
        self.handlers = LocalHandlers(
            registry, options.node_id, codecs, self._recorder, self._stats, self._handlers_changed
        )
        record = NodeInfo(
            node_id=options.node_id,
            endpoint=options.endpoint,
            service=options.service,
            metadata=dict(options.metadata),
            handles=self.handlers.names(),
            incarnation=time.time_ns() // 1000,
        )
        self._meter = LoadMeter()
        self._last_load = 0.0
        self._load_failed = False
        forgeable = _are_forgeable(options, backend)
        self.membership = Membership(
            backend.discovery, record, self, options.membership, load=self._load, forgeable=forgeable
        )
        self.heard = self.membership.heard  # straight to it: every batch is a sign of life
        self.peer = Peer(
            backend.transport,
            record,
            options.prefix,
            self,
            endpoints=self.handlers,
            load=self._load,
            max_concurrency=options.max_concurrency,
            max_queue=options.max_queue,
            signer=options.signer,
            trusts_bounces=not forgeable,
            deaf=max(3.0, 3 * options.probe_interval),  # it pings itself when nothing else is heard
        )
        stats = CallStats(self._load_of)
        self._outliers = Outliers(options.outliers, stats, deaf=self._deaf)
        self._table = RoutingTable(self.membership.view, stats, options.node_id, asyncio.get_running_loop().time)
        self.dispatch = Dispatch(
            self.membership.view,
            self._table,
            Delivery(
                self.peer,
                options.prefix,
                self._link,
                self._changed,
                self._link_changed,
                self._outliers,
                self._recorder.failovers,
            ),
            self._outliers,
            codecs,
            routing,
            options.request_timeout,
        )

    @property
    def lives(self) -> bool:
        """Whether it is this process's, and its event loop is not closed."""
        return self.pid == os.getpid() and not self.loop.is_closed()

    @property
    def health(self) -> Health:
        """As `DistributedMediator.health`. The link works once a round trip to this node itself has proved it."""
        if self.membership.fenced:
            return "fenced"
        return "healthy" if self._link.is_set() else "degraded"

    def not_ready(self) -> str | None:
        """Why this node should get no traffic now; None while it is well."""
        problem = self._problem()
        if self.peer.client.closed:
            return self.peer.client.closed
        if not self._link.is_set():
            return f"the link to the broker is down: {problem}" if problem else "the link to the broker is down"
        refusing = self.peer.server.refusing
        return problem or None if refusing is None else refusing.message

    def counts(self) -> dict[str, int]:
        """How often what happened, by name."""
        failovers = self._recorder.failovers.total()
        return {**self.peer.counts(), "failovers": failovers, "heartbeats": self.membership.heartbeats}

    def read(self) -> Reading:
        """Return what telemetry tells of this node. It may be called in any thread: nothing is changed, and no code of
        the user's runs, as scrapers have threads of their own."""
        problem, counts = self.not_ready(), self.counts()
        return Reading(
            node_id=self._options.node_id,
            phase="running",
            health=self.health,
            is_ready=problem is None,
            nodes=self.membership.view.states(),
            load=self._last_load if self._options.load is not None else max(self.peer.server.load, self._meter.now()),
            events=events_of(counts),
            pending_calls=counts["pending_calls"],
        )

    # -- life -----------------------------------------------------------------------------------------

    async def start(self, on_synced: Callable[[], None]) -> None:
        """Join. Raises `ClusterError` if the broker cannot be reached in time.

        Args:
            on_synced: called once this node knows the others, and before any of them knows it.
        """
        try:
            async with asyncio.timeout(self._options.connect_timeout + JOIN_GRACE):
                await self._join(on_synced)
        except TimeoutError as error:
            url, problem = self._options.url, self._problem()
            await to_the_end(self._abandon())
            text = f"could not join {url} within {self._options.connect_timeout:g} s"
            raise ClusterError(f"{text}: {problem.removeprefix(url).lstrip(': ')}" if problem else text) from error
        except BaseException:
            await to_the_end(self._abandon())
            raise

    async def _join(self, on_synced: Callable[[], None]) -> None:
        self._alive = True
        await self.peer.start()
        self._link.set()
        await self.membership.sync()
        on_synced()
        await self.peer.open_inbox(self.membership.me.incarnation)
        await self.peer.echo()
        await self.peer.probes.greet(self.members(), GREET_TIMEOUT)  # hears of a former life on a clock ahead of ours
        await self.peer.open_inbox(self.membership.me.incarnation)
        await self.membership.join()
        await self.peer.probes.greet(self.members(), GREET_TIMEOUT)  # they know this node when `start` returns
        self.peer.probes.canary.fly()
        await self._open_queues()

    async def drain(self) -> bool:
        """Announce it, refuse new calls, and let those that were accepted finish, within ``drain_timeout``. Returns
        whether they have."""
        try:
            if self.membership.me.state is not NodeState.DRAINING:
                await self.membership.update(state=NodeState.DRAINING)
        except ClusterError as error:
            logger.warning("could not announce draining", extra={"catga_error": str(error)})
        await self._quietly(self.peer.close_queues())  # before it refuses: the broker would go on choosing it
        self._refuse("is draining", own=False)  # what it accepted may need a call that no other node takes
        try:
            async with asyncio.timeout(self._options.drain_timeout):
                await self.peer.server.idle()
        except TimeoutError:
            logger.warning(
                "drain timed out: handlers still running are cancelled",
                extra={"catga_running": self.peer.server.inflight},
            )
            return False
        finally:
            self._refuse("is draining")
        return True

    async def stop(self) -> tuple[str, ...]:
        """Drain, send the last answers, unregister and close. Returns what of that failed."""
        lost: list[str] = []
        try:
            if not await self.drain():
                lost.append("handlers were cancelled")
            async with asyncio.timeout(max(self._options.drain_timeout, 5.0)):
                await self._quietly(self.peer.close_inbox())
                await self.peer.server.close()
                if self._link.is_set():
                    await self.peer.flush()
                if not await self.membership.leave():
                    lost.append("could not unregister: the lease will run out")
        except TimeoutError:
            logger.warning("the broker did not take the last messages in time")
            lost.append("the broker did not take the last messages in time")
        finally:
            await to_the_end(self._abandon())
        if not await settled():
            logger.warning("a store did not take the last letters or claims in time")
            lost.append("a store did not take the last letters or claims in time")
        return tuple(lost)

    async def _abandon(self) -> None:
        """Free everything, whatever state it is in. Once begun it goes to its end, whoever gives up waiting."""
        self._meter.close()
        try:
            await self._quietly(self.membership.leave())
        finally:  # also where the loop ends meanwhile, which cancels all tasks
            await self._quietly(self.peer.close())
        self._alive = False
        self.handlers.close()
        self._link.set()
        self._wake_all()  # they find the client closed

    async def _quietly(self, step: Coroutine[Any, Any, object]) -> None:
        try:
            await step
        except CatgaError as error:
            logger.warning("the others could not be told", extra={"catga_error": str(error)})
        except Exception:  # the steps behind it must be done all the same
            logger.exception("a step at the end of the node, or in its background, failed")

    # -- catga.membership.Host ------------------------------------------------------------------------

    def ping(self, node: NodeInfo) -> None:
        self.peer.probes.ping(node.node_id, node.incarnation)

    def ask(self, question: Question) -> None:
        self.peer.probes.ask(question.witness, question.nonce, question.target)

    def tell(self, reply_to: str, nonce: int, age: float) -> None:
        self.peer.probes.send(reply_to, Tell(nonce, age))

    def introduce(self, node_id: str, incarnation: int) -> None:
        self.peer.probes.introduce(node_id, incarnation)

    def bounces_work(self) -> bool:
        return self.peer.probes.canary.bounces_work

    def test_bounces(self) -> None:
        self.peer.probes.canary.fly()

    def bounces(self) -> int:
        return self.peer.probes.canary.bounces

    def refusals(self) -> int:
        return self.peer.probes.refusals

    def on_unreachable(self, node: NodeInfo) -> None:
        self.peer.client.node_unreachable(node.node_id, node.incarnation)

    def on_change(self, event: NodeChangeEvent) -> None:
        node = event.node
        self._table.changed(event)
        if event.type is NodeChangeType.LEFT:
            reason = event.reason.value if event.reason else "unknown"
            logger.info("node %s has left: %s", node.node_id, reason, extra={"catga_node_id": node.node_id})
            self._outliers.forget(node.node_id)
            loop = asyncio.get_running_loop()
            if event.reason is LeftReason.UNREACHABLE:  # it may run, and return
                self.on_unreachable(node)
                loop.call_later(IDLE_GRACE, self._has_left_idle, node)
            else:
                self._ask_to_refute(event)
                loop.call_later(LEFT_GRACE, self._has_left, node)
            return
        self._changed.tell()
        if node.state is NodeState.SUSPECT:
            self.peer.client.node_silent(node.node_id, node.incarnation)

    def _ask_to_refute(self, event: NodeChangeEvent) -> None:
        """Calls wait for a node that is said to be dead. If it lives, after a split that has healed, it should know
        that before they are ended, and not with the next probe."""
        life = event.node.node_id, event.node.incarnation
        destination = self.peer.client.destinations.get(life)
        is_doubtful = event.reason in (LeftReason.CRASHED, LeftReason.EXPIRED)
        if is_doubtful and destination is not None and destination.pending:
            self.introduce(*life)

    def _has_left(self, node: NodeInfo) -> None:
        if not self.membership.view.is_member(node.node_id, node.incarnation):  # else it has refuted that since
            self.peer.client.node_left(node.node_id, node.incarnation)

    def _has_left_idle(self, node: NodeInfo) -> None:
        """Once no call waits for it any more it is as any other that has left."""
        destination = self.peer.client.destinations.get((node.node_id, node.incarnation))
        if destination is not None and destination.pending:
            asyncio.get_running_loop().call_later(IDLE_GRACE, self._has_left_idle, node)
        else:
            self._has_left(node)

    def on_fenced(self, incarnation: int) -> None:
        self._refuse(f"was replaced by incarnation {incarnation}")
        self.dispatch.leave_home()
        self._spawn(self.peer.close_inbox())  # or whoever missed the news would go on taking it for a member

    async def on_rejoin(self, incarnation: int) -> None:
        await self.peer.open_inbox(incarnation)
        if self.membership.fenced:  # since: `on_fenced` closed the one before
            await self.peer.close_inbox()

    # -- catga.rpc.peer.Listener ----------------------------------------------------------------------

    def heard_of_itself(self, incarnation: int, ended: int) -> None:
        self.membership.own.heard_of_itself(incarnation, ended)

    def replaced(self, incarnation: int) -> None:
        self.membership.own.replaced(incarnation)

    def asked(self, reply_to: str, ask: Ask) -> None:
        self.membership.asked(reply_to, ask.nonce, ask.node_id, ask.incarnation)

    def told(self, node_id: str, tell: Tell) -> None:
        self.membership.told(node_id, tell.nonce, tell.age)

    def unlistened(self, node_id: str, incarnation: int, age: float) -> None:
        self.membership.unlistened(node_id, incarnation, age)

    def silent(self, node_id: str, incarnation: int) -> None:
        self.membership.silent(node_id, incarnation)
        self.peer.client.node_silent(node_id, incarnation)  # also those that had no budget the last time

    def is_member(self, node_id: str, incarnation: int) -> bool:
        return self.membership.view.is_member(node_id, incarnation)

    def known_incarnation(self, node_id: str) -> int:
        return self.membership.view.known_incarnation(node_id)

    def ended(self, node_id: str, incarnation: int) -> int:
        return self.membership.view.ended(node_id, incarnation)

    def members(self) -> Sequence[NodeInfo]:
        return self.membership.some_others(GREETED)

    def link(self, up: bool) -> None:
        if up == self._link.is_set():
            return
        where = {"catga_url": self._options.url}
        if up:
            self._link.set()
            self._wake_all()
            logger.warning("the link to the broker is up: %s", where["catga_url"], extra=where)
            self.membership.link_up()
            self._spawn(self._open_queues())
        else:
            self._link.clear()
            self.membership.link_down()
            logger.warning("the link to the broker is down: %s", where["catga_url"], extra=where)

    def closed(self, why: str) -> None:
        logger.error("%s", why, extra={"catga_url": self._options.url})
        self._wake_all()

    def _problem(self) -> str:
        """What the transport has to complain of, or "" if it is well or cannot tell."""
        transport = self._backend.transport
        return transport.problem if isinstance(transport, Diagnosing) else ""

    # -- inside ---------------------------------------------------------------------------------------

    def _wake_all(self) -> None:
        self._changed.tell()
        self._link_changed.tell()

    def _refuse(self, why: str, *, own: bool = True) -> None:
        self.peer.server.refuse(ClosedError(f"node {self._options.node_id} {why}"), own=own)
        if own:
            self._table.close()
        self._changed.tell()

    def _handlers_changed(self) -> None:
        if get_ident() == self.thread_id and not self.loop.is_closed():
            self._tell_handlers()
        elif self.pid == os.getpid():  # registered in another thread
            with suppress(RuntimeError):  # the loop was closed, and the node with it
                self.loop.call_soon_threadsafe(self._tell_handlers)

    def _tell_handlers(self) -> None:
        self.handlers.clear()  # what was compiled while another thread registered
        if self._alive:  # without a link the record changes all the same, and is told when the link is back
            self._spawn(self.membership.update(handles=self.handlers.names()))
            self._spawn(self._open_queues())

    async def _open_queues(self) -> None:
        if self._options.queues:
            await self.peer.open_queues(self.handlers.requests())

    def _spawn(self, step: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(self._quietly(step))
        self._updates.add(task)
        task.add_done_callback(self._updates.discard)

    def _stats(self, request: Stats) -> NodeStats:
        inflight = self.peer.server.inflight
        if not request.detail:
            return self._recorder.read(self._options.node_id, inflight=inflight)
        return self._recorder.read(
            self._options.node_id,
            inflight=inflight,
            ghosts=self.membership.view.ghosts(),
            types=self._recorder.types(),
            counters=self.counts(),
        )

    def _load(self) -> float:
        if self._options.load is not None:
            return self._given_load(self._options.load)
        load, lag = self.peer.server.load, self._meter.load
        return load if load > lag else lag

    def _given_load(self, load: Callable[[], float]) -> float:
        """What the user's function says; its last good word if it raises, or says what no number for a load is."""
        try:
            value = float(load())
            if math.isnan(value):
                raise ValueError("it returned nan")
            self._last_load = min(max(value, 0.0), MAX_LOAD)
        except Exception:
            if not self._load_failed:
                self._load_failed = True
                logger.exception("the load function fails; its last value counts")
        return self._last_load

    def _load_of(self, node_id: str) -> float:
        return self._load() if node_id == self._options.node_id else self.membership.view.load(node_id)

    def _deaf(self) -> bool:
        return not self._link.is_set() or self.membership.hearing.silence > 2 * self._options.probe_interval


def _are_forgeable(options: ClusterOptions, backend: Backend) -> bool:
    """Whether strangers can make the broker's word that nobody listens, where nobody unsigned is to be believed."""
    transport = backend.transport
    return options.signer is not None and isinstance(transport, ForgeableBounces) and transport.bounces_can_be_forged


def _forked() -> None:
    for node in _nodes:
        node.thread_id = 0  # the forked process has the ids of the threads, and not the threads


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
