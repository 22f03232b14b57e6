"""`DistributedMediator`: the verbs of a mediator, reaching a cluster."""

import asyncio
import contextvars
import logging
import os
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from threading import get_ident
from types import CoroutineType
from typing import Any, ParamSpec, TypeVar, cast

from catga.abc import Backend, Forward, RoutingStrategy
from catga.cluster.dispatch import Headers, Routing
from catga.cluster.explain import Explanation
from catga.cluster.node import Node
from catga.cluster.on_loop import on_loop
from catga.cluster.options import ClusterOptions, check_metadata
from catga.cluster.reading import EVENTS, Health, Reading, events_of
from catga.cluster.scatter import Broadcast, Gathered
from catga.errors import CatgaTimeoutError, ClosedError
from catga.mediator import Mediator
from catga.mediator.ambient import current, gone, made, running
from catga.mediator.carried import carried
from catga.mediator.intercept import send_through
from catga.mediator.nested import holding
from catga.mediator.threads import Caller, caller
from catga.membership import Watcher
from catga.messages import Event, Request
from catga.node import NodeInfo
from catga.result import CatgaResult, Failure
from catga.seconds import check_timeout

logger = logging.getLogger("catga.cluster")

R = TypeVar("R")
T = TypeVar("T")
P = ParamSpec("P")


def _is_coroutine_function(
    handing_on: Callable[P, Coroutine[Any, Any, R]],
) -> "Callable[P, CoroutineType[Any, Any, R]]":
    """Tell type checkers that a ``def`` that hands on a coroutine is as good as an ``async def``. It costs one
    coroutine less."""
    return cast("Callable[P, CoroutineType[Any, Any, R]]", handing_on)


class DistributedMediator(Mediator):
    """A `Mediator` whose verbs reach every node of the cluster. Made by `add_cluster`.

    Enter it to connect, register and start heartbeats; leaving it drains, unregisters and closes.
    """

    def __init__(
        self,
        mediator: Mediator,
        options: ClusterOptions,
        backend: Backend,
        renewed: Callable[[], tuple[ClusterOptions, Backend]] | None = None,
    ) -> None:
        super().__init__(resolver=mediator.resolver)
        self.registry = mediator.registry
        self._mediator = mediator
        self._settled = asyncio.Event()  # neither starting nor stopping
        self._settled.set()
        self._is_way()
        self._options = options
        self._backend = backend
        self._renewed = renewed  # gives options and backend anew: names and secrets of a process of its own
        self._pid = os.getpid()
        self._routing = Routing(options.routing)
        self._node: Node | None = None  # read it once: in another thread it may be gone at the next look
        self._last_events: dict[str, int] | None = None  # of a node that has stopped
        self._stopped = False
        self._exiting: asyncio.Task[None] | None = None

    # -- verbs ----------------------------------------------------------------------------------------

    @_is_coroutine_function
    def send(self, request: Request[R], timeout: float | None = None) -> Coroutine[Any, Any, CatgaResult[R]]:
        """Run the request's handler on one node of the cluster, chosen by the routing strategy.

        It may be called on any event loop and in any thread of the node's process, as all verbs may.

        Args:
            timeout: seconds for all attempts, over the message's own and the cluster's. ValueError if it is none.

        Await it for ``Success(value)`` or ``Failure(error)``; ``metadata`` tells the node and the attempts.
        Besides what `Mediator.send` returns: `NoNodeAvailableError`, `OverloadedError` (every candidate is
        full), `MaybeExecutedError` (the node was lost in mid-call and the request is not idempotent),
        `CatgaTimeoutError`, `InvalidMessageError` (also: too large for the broker), `ClosedError`.
        """
        node = self._node
        if node is None or get_ident() != node.thread_id or not node.loop.is_running():
            return self._otherwise(partial(self.send, request, timeout=timeout))
        dispatch = node.dispatch
        if timeout is None and not self.registry.interceptors:
            route = dispatch.routes.get(type(request))
            if route is not None:
                return dispatch.deliver(request, route, None)  # as `to_one` does, on the path of every request
        check_timeout(timeout)
        if self.registry.interceptors:
            return self._through(request, partial(dispatch.to_one, timeout=timeout))
        return dispatch.to_one(request, None, timeout)

    async def send_to_node(self, request: Request[R], node_id: str, *, timeout: float | None = None) -> CatgaResult[R]:
        """Run the request's handler on that node. `NodeNotFoundError` if it is no member.

        Args:
            timeout: seconds, as in `send`.
        """
        node = self._here()
        if node is None:
            return await self._otherwise(partial(self.send_to_node, request, node_id, timeout=timeout))
        check_timeout(timeout)

        def forward(message: Request[Any], headers: Headers) -> Coroutine[Any, Any, CatgaResult[Any]]:
            return node.dispatch.to_node(message, node_id, headers, timeout)

        return await self._forward(request, forward)

    async def publish(self, event: Event, timeout: float | None = None) -> CatgaResult[None]:
        """Deliver the event to one node of each *service* that has a handler for it: at most once, if it is not marked
        idempotent.

        Returns when all handlers have run. With no subscriber, nothing happens; a service that handled the event a
        moment ago and has no node now is waited for until the deadline. With several services one ``Failure`` stands
        for all: its execution is NO only if none ran the event, and ``details["services"]`` has the result of each.

        Args:
            timeout: seconds for each service, as in `send`.
        """
        node = self._here()
        if node is None:
            return await self._otherwise(partial(self.publish, event, timeout=timeout))
        check_timeout(timeout)
        result: CatgaResult[None] = await self._forward(event, partial(node.dispatch.to_services, timeout=timeout))
        return result

    async def broadcast(self, event: Event, *, timeout: float | None = None) -> Broadcast:
        """Deliver the event to every node, this one included: at most once each, if it is not marked idempotent.

        Args:
            timeout: seconds for each node, as in `send`.

        Returns who acknowledged (their handlers, if any, have run) and who did not, with the reason.
        Raises `ClosedError` and `InvalidMessageError`.
        """
        node = self._here()
        if node is None:
            return await self._elsewhere(partial(self.broadcast, event, timeout=timeout), caller.get())
        check_timeout(timeout)
        result: Broadcast | Failure = await self._forward(event, partial(node.dispatch.to_every_node, timeout=timeout))
        if isinstance(result, Failure):  # an interceptor's own
            raise result.error
        return result

    async def send_to_all(self, request: Request[R], *, timeout: float | None = None) -> Gathered[R]:
        """Run the request's handler on every node that has one, draining nodes excepted.

        Args:
            timeout: seconds for each node, as in `send`.

        Returns the answer of each, and why the others gave none. Raises `ClosedError`, `InvalidMessageError`,
        `HandlerNotFoundError` if no node has a handler, `NoNodeAvailableError` if none has one any more, and
        `ValueError` for a `timeout` that is none.
        """
        node = self._here()
        if node is None:
            return await self._elsewhere(partial(self.send_to_all, request, timeout=timeout), caller.get())
        check_timeout(timeout)
        result: Gathered[R] | Failure = await self._forward(
            request, partial(node.dispatch.to_all_able, timeout=timeout)
        )
        if isinstance(result, Failure):  # an interceptor's own, or nobody handles it
            raise result.error
        return result

    def route(self, message_type: type, strategy: RoutingStrategy) -> None:
        """Route messages of this class, and of those derived from it, by `strategy`, not by the cluster's.

        Raises:
            TypeError: `strategy` is none.
            InvalidMessageError: it cannot route this class, e.g. `ConsistentHash` without a ``key``.
        """
        self._routing.set(message_type, strategy)
        node = self._node
        if node is not None:
            node.dispatch.forget_routes()

    def explain(self, request: Request[Any]) -> Explanation:
        """Why `request` would go where it goes if it was sent now. Nothing is sent, and no turn is used up.

        Raises `ClosedError` before the start, and `InvalidMessageError` for what is no message.
        """
        return self._joined().dispatch.explain(request)

    # -- the cluster ----------------------------------------------------------------------------------

    @property
    def node_id(self) -> str:
        """This node's id."""
        return self._options.node_id

    @property
    def current_node(self) -> NodeInfo:
        """This node as it presents itself to the others. Raises `ClosedError` unless it has joined."""
        return self._joined().membership.present()

    @property
    def health(self) -> Health:
        """``healthy``; ``degraded`` while the link to the broker is down; ``fenced`` once another process has
        taken this node's id; ``closed`` outside of the cluster."""
        node = self._node
        return "closed" if node is None or not node.lives else node.health

    @property
    def not_ready(self) -> str | None:
        """Why this node should get no traffic now; None while it is well."""
        try:
            return self._joined().not_ready()
        except ClosedError as error:
            return error.message

    def get_nodes(self) -> list[NodeInfo]:
        """All members as this node sees them, itself included, sorted by id. From memory."""
        return self._joined().membership.snapshot()

    def watch(self) -> Watcher:
        """Changes of the membership: first every member as ``joined``, then what happens."""
        return self._joined().membership.watch()

    @property
    def counters(self) -> Mapping[str, int]:
        """How often what happened on this node since its start, by name."""
        return self._joined().counts()

    def read(self) -> Reading | None:
        """Return what telemetry tells of this node now, whether it runs or not; None if it is another process's.

        It comes from memory, and may be called in any thread.
        """
        node, events = self._node, self._last_events
        if node is not None and node.pid != os.getpid():
            return None
        if node is not None and not node.loop.is_closed():
            return node.read()
        if node is not None:  # its event loop ended without a `stop`
            events = self._counted(node)
        if events is None:
            return Reading(node_id=self.node_id, phase="new", events=dict.fromkeys(EVENTS, 0))
        return Reading(node_id=self.node_id, phase="ended", events=events)

    async def update(self, *, endpoint: str | None = None, metadata: Mapping[str, str] | None = None) -> None:
        """Change what the others know of this node. Raises `ClusterError` if they could not be told now; they
        hear of it once the link is back."""
        fields: dict[str, object] = {} if endpoint is None else {"endpoint": endpoint}
        if metadata is not None:
            check_metadata(metadata)
            fields["metadata"] = dict(metadata)
        await self._elsewhere(lambda: self._joined().membership.update(**fields))

    # -- lifecycle ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect, register, start heartbeats; the members know this node when it returns.

        Raises:
            ClusterError: the broker cannot be reached within ``connect_timeout``.
            ClosedError: it was started before.
            InvalidMessageError: a message that has a handler cannot travel.
        """
        if self._node is not None or self._stopped:
            raise ClosedError("a DistributedMediator is started once: make a new one with add_cluster")
        self._stopped = True  # until it runs
        self._settled.clear()
        self._is_way()
        try:
            if os.getpid() != self._pid and self._renewed is not None:  # forked since, perhaps several times
                self._options, self._backend = self._renewed()
            node = self._made()
            await node.start(lambda: self._knows_others(node))
        except BaseException:
            self._node = None
            self._is_no_way()
            raise
        finally:
            self._settled.set()
        self._stopped = False

    async def drain(self) -> None:
        """Take no more work and finish what was accepted, within ``drain_timeout`` seconds.

        The others hear of it and choose other nodes; what still comes is refused and goes elsewhere. This
        node may go on sending.
        """
        await self._elsewhere(lambda: self._joined().drain())

    async def stop(self) -> tuple[str, ...]:
        """Drain, unregister and close. Does nothing if it is not running. Returns once it has left, whoever stops it.

        Returns what could not be done, in words; nothing if all went well. It is in the log, too.
        """
        node = self._node
        if node is None and not self._stopped:
            self._is_no_way()  # until it is started
        if node is None:
            return ()
        if not self._lives():
            self._counted(node)
            self._stopped, self._node = True, None
            self._is_no_way()
            return (f"the event loop of node {self.node_id} has ended, or is another process's: nobody was told",)
        if asyncio.get_running_loop() is not node.loop:
            return await self._elsewhere(self.stop)
        if not self._settled.is_set():  # it is starting, or stopping already
            await self._settled.wait()
            return await self.stop()
        self._stopped = True
        self._settled.clear()
        try:
            return await node.stop()
        finally:
            self._counted(node)
            self._node = None
            self._is_no_way()
            self._settled.set()

    async def __aenter__(self) -> "DistributedMediator":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # -- inside ---------------------------------------------------------------------------------------

    def _lives(self) -> bool:
        node = self._node
        return node is None or node.lives

    def _counted(self, node: Node) -> dict[str, int] | None:
        """Keep what was counted until the end of `node`, unless that is another process's."""
        if node.pid == os.getpid():
            self._last_events = events_of(node.counts())
        return self._last_events

    def _here(self) -> Node | None:
        """The node, if its event loop is the one that runs."""
        node = self._node
        return None if node is None or get_ident() != node.thread_id or not node.loop.is_running() else node

    def _through(self, message: Any, forward: Forward) -> Coroutine[Any, Any, Any]:
        return send_through(self.registry.interceptors, forward, message)

    def _forward(
        self, message: Any, forward: Callable[[Any, Headers], Coroutine[Any, Any, T]]
    ) -> Coroutine[Any, Any, T]:
        if self.registry.interceptors:
            return self._through(message, forward)
        return forward(message, None)

    async def _otherwise(self, verb: Callable[[], Coroutine[Any, Any, CatgaResult[R]]]) -> CatgaResult[R]:
        """As `_elsewhere`, but with a `Failure` for what that raises."""
        try:
            return await self._elsewhere(verb, caller.get())
        except (ClosedError, CatgaTimeoutError) as error:
            return Failure(error)

    async def _elsewhere(self, verb: Callable[[], Coroutine[Any, Any, T]], waiting: Caller | None = None) -> T:
        """What `verb` returns on the node's event loop, whoever's this one is.

        Args:
            waiting: who waits for the handler in this thread, if `verb` sends something for it.

        Raises:
            ClosedError: there is no node, it belongs to the process from which this one was forked, or its loop ends.
            CatgaTimeoutError: as `on_loop` does.
        """
        node = self._joined()
        if asyncio.get_running_loop() is node.loop:
            return await verb()
        if node.pid != os.getpid():
            raise ClosedError(
                f"node {self.node_id} belongs to the process that forked this one: make one after the fork"
            )
        return await on_loop(node.loop, verb, waiting or Caller())

    def _knows_others(self, node: Node) -> None:
        """Others may call its handlers before `start` has returned, and these may send."""
        self._node = node

    def _made(self) -> Node:
        context = contextvars.copy_context()  # handlers of calls from other nodes run in copies of it
        context.run(running.set, self)
        context.run(carried.set, None)
        context.run(holding.set, None)  # a handler may start it
        node = context.run(Node, self._options, self._backend, self.registry, self._routing, self._exit)
        node.peer.server.local.owner, self._threads = self, node.peer.server.threads
        return node

    def _is_way(self) -> None:
        """The verbs of its `Mediator` are its own from now on."""
        self._mediator._joins_by(self)  # pyright: ignore[reportPrivateUsage]
        made(self)

    def _is_no_way(self) -> None:
        """They are not any more."""
        self._mediator._has_left(self)  # pyright: ignore[reportPrivateUsage]
        gone(self)

    def _exit(self, reason: SystemExit | KeyboardInterrupt) -> None:
        """A handler ends the program: leave the cluster in order before."""
        if self._exiting is None:
            logger.warning("a handler ends the program by %r: the node leaves first", reason)
            self._exiting = asyncio.create_task(self._leave_and_exit(reason), name="catga-exit")

    async def _leave_and_exit(self, reason: SystemExit | KeyboardInterrupt) -> None:
        try:
            await self._settled.wait()  # it may be starting, or stopping already
            await self.stop()
        finally:
            asyncio.get_running_loop().call_soon(_raise, reason)  # a task would keep it to itself

    def _joined(self) -> Node:
        node = self._node
        if node is None:
            verb = "has left the cluster" if self._stopped else "has not joined the cluster: use it as `async with`"
            raise ClosedError(f"node {self.node_id} {verb}")
        return node


def current_cluster() -> DistributedMediator:
    """Return the node that runs this handler, with all the verbs of a cluster; see `catga.current`.

    Raises:
        ClosedError: this is no handler of a node, and this process does not have exactly one.
    """
    found = current()
    if isinstance(found, DistributedMediator):
        return found
    raise ClosedError("the handler runs in one process, without a cluster: make a node with add_cluster")


def _raise(error: BaseException) -> None:
    raise error
