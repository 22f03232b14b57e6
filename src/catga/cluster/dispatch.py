"""Where a message goes: to one candidate, to a named node, to each service, to every node."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeAlias

from msgspec import structs

from catga.abc import RoutingStrategy
from catga.cluster.attempts import Route
from catga.cluster.delivery import Delivery
from catga.cluster.explain import Explanation, explain
from catga.cluster.handlers import Codecs
from catga.cluster.options import default_routing
from catga.cluster.outliers import Outliers
from catga.cluster.scatter import Broadcast, Gathered, broadcast, gather, is_unknown, together
from catga.cluster.table import NOBODY, RoutingTable
from catga.codec import Codec
from catga.errors import CatgaError, NodeNotFoundError, NoNodeAvailableError
from catga.mediator.registry import handler_not_found
from catga.membership import View
from catga.messages import Event, Request, is_event, is_request, no_message
from catga.node import NodeInfo, NodeState
from catga.result import CatgaResult, Failure
from catga.routing import Candidates, Queue, RoundRobin
from catga.routing.inner import check_inner

Headers: TypeAlias = dict[str, str] | None

ONLY = RoundRobin()
"""The strategy of a pool of one."""


class Routing(dict[type, RoutingStrategy]):
    """The strategy of each message type: its own, that of a base, or the cluster's; worked out once."""

    def __init__(self, default: RoutingStrategy) -> None:
        super().__init__()
        self._default = default
        self._strategies: dict[type, RoutingStrategy] = {}

    def set(self, message_type: type, strategy: RoutingStrategy) -> None:
        """Route messages of this class, and of those derived from it, by `strategy`."""
        if not isinstance(default_routing(strategy), Queue):
            check_inner(strategy, message_type)
        self._strategies[message_type] = strategy
        self.clear()

    def __missing__(self, message_type: type) -> RoutingStrategy:
        owner = next((base for base in message_type.__mro__ if base in self._strategies), None)
        found = self[message_type] = self._default if owner is None else self._strategies[owner]
        return found


class Dispatch:
    """Sends the messages of one node. Whatever goes wrong is a `Failure`, unless said otherwise.

    Args:
        request_timeout: seconds, for messages without a timeout of their own.
    """

    def __init__(
        self,
        view: View,
        table: RoutingTable,
        delivery: Delivery,
        outliers: Outliers,
        codecs: Codecs,
        routing: Routing,
        request_timeout: float,
    ) -> None:
        self._view = view
        self._table = table
        self._delivery = delivery
        self.deliver = delivery.deliver
        self._outliers = outliers
        self._codecs = codecs
        self._routing = routing
        self._request_timeout = request_timeout
        self.routes: dict[type, Route] = {}
        """Of requests."""

    def to_one(
        self, request: Request[Any], headers: Headers = None, timeout: float | None = None
    ) -> Coroutine[Any, Any, CatgaResult[Any]]:
        """To one of the nodes that handle it.

        Args:
            timeout: seconds, over the message's own, here and below.
        """
        route = self.routes.get(type(request))
        if route is None:
            try:
                route = self.routes[type(request)] = self._route(request)
            except CatgaError as error:
                return _failed(error)
        if timeout is not None:
            route = structs.replace(route, timeout=timeout)
        return self.deliver(request, route, headers)

    async def to_node(
        self, request: Request[Any], node_id: str, headers: Headers = None, timeout: float | None = None
    ) -> CatgaResult[Any]:
        """To that node."""
        node = self._view.get(node_id)
        if node is None:
            known = ", ".join(n.node_id for n in self._view.nodes())
            return Failure(NodeNotFoundError(f"no node {node_id!r}; the members are {known}"))
        try:
            codec = self._request_codec(request)
            result = await self._to(node, request, codec, headers, timeout)
        except CatgaError as error:
            return Failure(error)
        if type(result) is Failure and is_unknown(result.error):
            handled = dict.fromkeys(node.handles, (node_id,))
            return Failure(handler_not_found(codec.name, {**handled}), result.metadata)
        return result

    async def to_services(
        self, event: Event, headers: Headers = None, timeout: float | None = None
    ) -> CatgaResult[None]:
        """To one node of each service that handles it, or did a moment ago and may be about to come back."""
        try:
            codec = self._event_codec(event)
        except CatgaError as error:
            return Failure(error)
        services = self._table.services(codec.name)
        if len(services) == 1:
            return await self._to_service(services[0], event, codec, headers, timeout)
        results = await asyncio.gather(*(self._to_service(s, event, codec, headers, timeout) for s in services))
        return together(dict(zip(services, results, strict=True)))

    async def to_every_node(self, event: Event, headers: Headers = None, timeout: float | None = None) -> Broadcast:
        """To every node. Raises `InvalidMessageError` for what cannot travel."""
        codec = self._event_codec(event)
        return await broadcast(self._view.nodes(), lambda node: self._to(node, event, codec, headers, timeout))

    async def to_all_able(
        self, request: Request[Any], headers: Headers = None, timeout: float | None = None
    ) -> Gathered[Any]:
        """To every node that handles it and is not draining.

        Raises `InvalidMessageError`, and `HandlerNotFoundError` or `NoNodeAvailableError` if there is none.
        """
        codec = self._codecs[type(request)]
        able = [n for n in self._view.nodes() if codec.name in n.handles and n.state is not NodeState.DRAINING]
        if not able:
            raise self._nobody(codec.name)
        return await gather(able, lambda node: self._to(node, request, codec, headers, timeout))

    def explain(self, request: Request[Any]) -> Explanation:
        """Why `request` would go where it goes. Raises `InvalidMessageError` for what is no message."""
        name = self._codecs[type(request)].name
        nodes = self._table.routes(name).nodes
        return explain(request, name, self._view.nodes(), nodes, self._routing[type(request)], self._outliers)

    def leave_home(self) -> None:
        """This node's id is another process's from now on: what goes there leaves this process."""
        self._delivery.node_id = ""

    def forget_routes(self) -> None:
        """The strategies have changed."""
        self.routes.clear()

    def _route(self, request: object) -> Route:
        codec = self._request_codec(request)
        timeout = codec.timeout or self._request_timeout
        pool, strategy = self._table.pool(codec.name), self._routing[codec.cls]
        return Route(codec, pool, strategy, timeout, self._nobody, is_queued=isinstance(strategy, Queue))

    def _request_codec(self, request: object) -> Codec:
        if not is_request(type(request)):
            raise no_message(request, "request")
        return self._codecs[type(request)]

    def _event_codec(self, event: object) -> Codec:
        if not is_event(type(event)):
            raise no_message(event, "event")
        return self._codecs[type(event)]

    def _to_service(
        self, service: str, event: Event, codec: Codec, headers: Headers, timeout: float | None
    ) -> Coroutine[Any, Any, CatgaResult[None]]:
        pool = self._table.pool_of(service, codec.name)
        timeout = timeout or codec.timeout or self._request_timeout
        route = Route(codec, pool, self._routing[codec.cls], timeout, waits=True)
        return self.deliver(event, route, headers)

    async def _to(
        self, node: NodeInfo, message: Any, codec: Codec, headers: Headers, timeout: float | None = None
    ) -> CatgaResult[Any]:
        alone = self._table.alone(node)

        def pool() -> Candidates:
            member = self._view.get(node.node_id)
            if member is None or member.incarnation != node.incarnation or member.state is NodeState.DRAINING:
                return NOBODY
            return alone

        route = Route(codec, pool, ONLY, timeout or codec.timeout or self._request_timeout)
        return await self.deliver(message, route, headers)

    def _nobody(self, name: str) -> CatgaError:
        if self._table.was_handled(name):
            return NoNodeAvailableError(f"no node that handles {name} is available any more")
        if not self._view.nodes():
            return NoNodeAvailableError("no node is in the cluster: does one run, at this URL and with this prefix?")
        return handler_not_found(name, {n: tuple(ids) for n, ids in self._table.handled().items()})


async def _failed(error: CatgaError) -> CatgaResult[Any]:
    return Failure(error)
