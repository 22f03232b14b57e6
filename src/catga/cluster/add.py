"""`add_cluster`: from one process to a cluster in one call."""

from collections.abc import Callable, Mapping
from typing import Any

from catga.abc import BackendSettings, RoutingStrategy
from catga.backends import open_backend
from catga.cluster.mediator import DistributedMediator
from catga.cluster.options import ClusterOptions, check_positive, default_node_id, default_routing
from catga.mediator import Mediator


def add_cluster(
    mediator: Mediator,
    url: str = "memory://default",
    *,
    node_id: str | None = None,
    service: str = "default",
    endpoint: str = "",
    routing: RoutingStrategy | None = None,
    ttl: float = 120.0,
    heartbeat_interval: float = 30.0,
    probe_interval: float = 1.0,
    request_timeout: float = 30.0,
    connect_timeout: float = 10.0,
    drain_timeout: float = 30.0,
    max_concurrency: int = 512,
    max_queue: int = 1024,
    load: Callable[[], float] | None = None,
    metadata: Mapping[str, str] | None = None,
    prefix: str = "catga",
    observe_only: bool = False,
    **options: Any,
) -> DistributedMediator:
    """A node that runs the handlers of `mediator`, and whose verbs reach all nodes behind `url`.

    Enter it with ``async with``. Times are seconds.

    Args:
        mediator: has the handlers; more may be added later.
        url: ``memory://name``, ``nats://host:port``, ``redis://host:port``, or another installed backend's.
        node_id: unique in the cluster; by default the host's name and a random part.
        service: of an event published, each service gets one copy.
        endpoint: free text for the others to read, e.g. this node's HTTP address.
        routing: which of the nodes that handle a message gets it; `RoundRobin` by default.
        ttl: the lease: a node unheard of for so long has left. Crashes are noticed much earlier.
        heartbeat_interval: how often the lease is refreshed, ± 20 %.
        probe_interval: how often one other member is probed.
        request_timeout: until a call fails with `CatgaTimeoutError`, attempts on several nodes included; a
            message's own ``timeout`` goes before it.
        connect_timeout: until an unreachable broker is a `ClusterError` at the start.
        drain_timeout: how long accepted calls may take to finish when the node leaves.
        max_concurrency: ``async`` handlers that run at once.
        max_queue: accepted calls that wait for them; beyond that they are refused and go elsewhere.
        load: this node's load, 0 idle to 1 full; by default calls in flight over `max_concurrency`, or the
            event loop's lag.
        metadata: what the others may route by, e.g. ``{"zone": "a"}``.
        prefix: of all subjects, channels and keys; clusters with different ones share a broker.
        observe_only: see the members and call them without being one: it takes no calls and is in nobody's view.
            Its `node_id` must be its own all the same.
        options: the backend's own, see `add_nats_cluster` and `add_redis_cluster`.

    Raises:
        ValueError: a value that cannot work; the message says the fix.
        ClusterError: no backend has the URL's scheme.
        MissingExtraError: the backend's client library is not installed.
    """
    check_positive("ttl", ttl)
    checked = ClusterOptions(
        url=url,
        node_id=default_node_id() if node_id is None else node_id,
        service=service,
        endpoint=endpoint,
        routing=default_routing(routing),
        ttl=ttl,
        heartbeat_interval=heartbeat_interval,
        probe_interval=probe_interval,
        request_timeout=request_timeout,
        connect_timeout=connect_timeout,
        drain_timeout=drain_timeout,
        max_concurrency=max_concurrency,
        max_queue=max_queue,
        load=load,
        metadata=metadata or {},
        prefix=prefix,
        observe_only=observe_only,
        backend_options=options,
    )
    backend = open_backend(
        BackendSettings(url=url, prefix=prefix, ttl=ttl, connect_timeout=connect_timeout, options=options)
    )
    return DistributedMediator(mediator, checked, backend)


def add_nats_cluster(mediator: Mediator, url: str = "nats://127.0.0.1:4222", **options: Any) -> DistributedMediator:
    """`add_cluster` over NATS."""
    return add_cluster(mediator, url, **options)


def add_redis_cluster(mediator: Mediator, url: str = "redis://127.0.0.1:6379", **options: Any) -> DistributedMediator:
    """`add_cluster` over Redis or Valkey."""
    return add_cluster(mediator, url, **options)
