"""`add_cluster`: from one process to a cluster in one call."""

import ssl
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

from msgspec.structs import replace

from catga.abc import Backend, BackendSettings, RoutingStrategy
from catga.backends import check_url, open_backend, redact
from catga.cluster.mediator import DistributedMediator
from catga.cluster.options import ClusterOptions, check_options, default_node_id, default_routing
from catga.cluster.outliers import OutlierEjection
from catga.hidden import shows_no_locals
from catga.hints import annotations_of
from catga.mediator import Mediator
from catga.routing import Queue
from catga.rpc.signing import Signer
from catga.seconds import check_positive

if TYPE_CHECKING:
    from nats.aio.client import Client as NatsClient
    from redis.asyncio import Redis
    from redis.credentials import CredentialProvider


@shows_no_locals
def add_cluster(
    mediator: Mediator,
    url: str = "memory://default",
    *,
    node_id: str | None = None,
    service: str = "default",
    endpoint: str = "",
    routing: RoutingStrategy | None = None,
    outliers: OutlierEjection | None = None,
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
    signing_keys: Sequence[bytes] = (),
    observe_only: bool = False,
    queues: bool = False,
    **options: Any,
) -> DistributedMediator:
    """A node that runs the handlers of `mediator`, and whose verbs reach all nodes behind `url`.

    Enter it with ``async with``. Times are seconds.

    Args:
        mediator: has the handlers; more may be added later.
        url: ``memory://name``, ``nats://host:port``, ``redis://host:port``, or another installed backend's.
        node_id: unique in the cluster; by default the host's name and a random part, which each process that is
            forked before the start makes anew.
        service: of an event published, each service gets one copy.
        endpoint: free text for the others to read, e.g. this node's HTTP address.
        routing: which of the nodes that handle a message gets it; `RoundRobin` by default.
            `DistributedMediator.route` sets another for one message class.
        outliers: when a node whose calls fail is left out, see `OutlierEjection`.
        ttl: the lease: a node unheard of for so long has left. Crashes are noticed much earlier.
        heartbeat_interval: how often the lease is refreshed, ± 20 %.
        probe_interval: how often one other member is probed.
        request_timeout: until a call fails with `CatgaTimeoutError`, attempts on several nodes included; a
            message's own ``timeout`` goes before it.
        connect_timeout: until an unreachable broker is a `ClusterError` at the start.
        drain_timeout: how long accepted calls may take to finish when the node leaves.
        max_concurrency: ``async`` handlers that run at once.
        max_queue: accepted calls that wait for them. What is beyond is refused and goes elsewhere, and so does a call
            that would wait for most of its time at the pace at which the others come forward.
        load: this node's load, 0 idle to 1 full; by default calls in flight over `max_concurrency`, or the
            event loop's lag.
        metadata: what the others may route by, e.g. ``{"zone": "a"}``.
        prefix: of all subjects, channels and keys; clusters with different ones share a broker.
        signing_keys: if given, batches and members' records are signed with the first of these secrets (16 bytes
            or more each) and dropped unless signed with one of them: for nodes that share a bus they do not trust.
        observe_only: see the members and call them without being one: it takes no calls and is in nobody's view.
            Its `node_id` must be its own all the same.
        queues: take requests also from the broker's queues, where the routing strategy `Queue` puts them; so it is
            if `routing` is `Queue`. Not with `signing_keys`.
        options: the backend's own, see `add_nats_cluster` and `add_redis_cluster`.

    Raises:
        ValueError: a value that cannot work; the message says the fix.
        TypeError: an argument is something else, or there is no such option.
        ClusterError: no backend has the URL's scheme.
        MissingExtraError: the backend's client library is not installed.
    """
    if not isinstance(mediator, Mediator):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"add_cluster takes a Mediator, such as Mediator(), got {mediator!r}")
    check_url(url)
    check_options(options, annotations_of(CommonOptions))
    check_positive("ttl", ttl)
    checked = ClusterOptions(
        url=redact(url),
        node_id=default_node_id() if node_id is None else node_id,
        service=service,
        endpoint=endpoint,
        routing=default_routing(routing),
        outliers=OutlierEjection() if outliers is None else outliers,
        ttl=ttl,
        heartbeat_interval=heartbeat_interval,
        probe_interval=probe_interval,
        request_timeout=request_timeout,
        connect_timeout=connect_timeout,
        drain_timeout=drain_timeout,
        max_concurrency=max_concurrency,
        max_queue=max_queue,
        load=load,
        metadata={} if metadata is None else metadata,
        prefix=prefix,
        signer=Signer(signing_keys) if signing_keys else None,
        observe_only=observe_only,
        queues=queues or (isinstance(routing, Queue) and observe_only is False),
    )
    settings = BackendSettings(
        url=url,
        prefix=prefix,
        ttl=ttl,
        connect_timeout=connect_timeout,
        signer=checked.signer,
        options=options,
    )

    def renewed() -> tuple[ClusterOptions, Backend]:
        signer = checked.signer and checked.signer.renewed()
        own = replace(checked, node_id=default_node_id() if node_id is None else node_id, signer=signer)
        return own, open_backend(replace(settings, signer=signer))

    return DistributedMediator(mediator, checked, open_backend(settings), renewed)


class CommonOptions(TypedDict, total=False):
    """What `add_cluster` takes for every backend; see there."""

    node_id: str | None
    service: str
    endpoint: str
    routing: RoutingStrategy | None
    outliers: OutlierEjection | None
    ttl: float
    heartbeat_interval: float
    probe_interval: float
    request_timeout: float
    connect_timeout: float
    drain_timeout: float
    max_concurrency: int
    max_queue: int
    load: Callable[[], float] | None
    metadata: Mapping[str, str] | None
    prefix: str
    signing_keys: Sequence[bytes]
    observe_only: bool
    queues: bool


class NatsOptions(CommonOptions, total=False):
    """Options of `add_nats_cluster`.

    Attributes:
        discovery: ``"pubsub"`` (default: no store, any server) or ``"kv"`` (a JetStream bucket, which needs
            nats-server 2.11 with ``-js``).
        client: a connected ``nats.aio.client.Client`` to use; it is not closed, and the options below do not apply.
        user, password, token: credentials.
        user_credentials: path of a ``.creds`` file.
        nkeys_seed: path of a file with an nkey seed.
        tls: for ``tls://`` URLs; verifies by the system's authorities by default.
        tls_hostname: to verify instead of the URL's.
    """

    discovery: Literal["pubsub", "kv"]
    client: "NatsClient"
    user: str
    password: str
    token: str
    user_credentials: str
    nkeys_seed: str
    tls: ssl.SSLContext
    tls_hostname: str


class RedisOptions(CommonOptions, total=False):
    """Options of `add_redis_cluster`.

    Attributes:
        client: a ``redis.asyncio.Redis`` whose address, credentials and TLS are used, over the URL's; it is not closed.
        username, password: credentials, over the URL's.
        credential_provider: gives them at each connect, instead.
        db: number of the database, over the URL's.
        ssl_ca_certs: path of the authorities that the server's certificate is verified by (``rediss://``).
        ssl_certfile, ssl_keyfile, ssl_password: this node's own certificate. ``ssl_password`` needs redis-py 7.2 or
            later.
        ssl_cert_reqs: ``"required"`` (default), ``"optional"`` or ``"none"``.
        ssl_check_hostname: whether the certificate must be the host's; yes by default.
    """

    client: "Redis"
    username: str
    password: str
    credential_provider: "CredentialProvider"
    db: int
    ssl_ca_certs: str
    ssl_certfile: str
    ssl_keyfile: str
    ssl_password: str
    ssl_cert_reqs: Literal["required", "optional", "none"]
    ssl_check_hostname: bool


@shows_no_locals
def add_nats_cluster(
    mediator: Mediator, url: str = "nats://127.0.0.1:4222", **options: Unpack[NatsOptions]
) -> DistributedMediator:
    """`add_cluster` over NATS. Options: `CommonOptions` and `NatsOptions`. Raises like `add_cluster`."""
    return add_cluster(mediator, url, **options)


@shows_no_locals
def add_redis_cluster(
    mediator: Mediator, url: str = "redis://127.0.0.1:6379", **options: Unpack[RedisOptions]
) -> DistributedMediator:
    """`add_cluster` over Redis or Valkey. Options: `CommonOptions` and `RedisOptions`. Raises like `add_cluster`."""
    return add_cluster(mediator, url, **options)
