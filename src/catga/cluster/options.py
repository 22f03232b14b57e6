"""What `add_cluster` takes, checked at the call."""

import platform
import secrets
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches

import msgspec

from catga.abc import RoutingStrategy
from catga.cluster.outliers import OutlierEjection
from catga.membership import MembershipSettings
from catga.routing import RoundRobin
from catga.rpc.signing import Signer
from catga.seconds import check_positive, is_number

_KINDS: tuple[tuple[str, type, str], ...] = (
    ("endpoint", str, "text"),
    ("prefix", str, "text"),
    ("outliers", OutlierEjection, "an OutlierEjection(...)"),
    ("max_concurrency", int, "a whole number"),
    ("max_queue", int, "a whole number"),
    ("observe_only", bool, "True or False"),
    ("queues", bool, "True or False"),
)
"""Options of which nothing else checks the type, with what to say."""


class ClusterOptions(msgspec.Struct, frozen=True, kw_only=True):
    """See `add_cluster` for what each means; ``url`` is without its password.

    Raises:
        ValueError: a value that cannot work.
        TypeError: a value of another type.
    """

    url: str
    node_id: str
    service: str
    endpoint: str
    routing: RoutingStrategy
    outliers: OutlierEjection
    ttl: float
    heartbeat_interval: float
    probe_interval: float
    request_timeout: float
    connect_timeout: float
    drain_timeout: float
    max_concurrency: int
    max_queue: int
    load: Callable[[], float] | None
    metadata: Mapping[str, str]
    prefix: str
    signer: Signer | None
    observe_only: bool
    queues: bool

    def __post_init__(self) -> None:
        self._check_types()
        check_name("node_id", self.node_id)
        check_name("service", self.service)
        check_metadata(self.metadata)
        check_prefix(self.prefix)
        self._check_times()
        if self.max_concurrency < 1:
            raise ValueError(f"max_concurrency must be at least 1, got {self.max_concurrency}")
        if self.max_queue < 0:
            raise ValueError(f"max_queue must be 0 or more, got {self.max_queue}")
        if self.queues and self.observe_only:
            raise ValueError("an observe_only node takes no calls: leave out queues=True")
        if self.queues and self.signer is not None:
            raise ValueError(
                "queues cannot be signed: a signature holds for one node's inbox, and a queue is shared, so that a "
                "recorded call could be run again by another node: use another strategy, or no signing_keys"
            )

    def _check_types(self) -> None:
        for name, kind, words in _KINDS:
            value = getattr(self, name)
            if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
                raise TypeError(f"{name} must be {words}, got {value!r}")
        if self.load is not None and not callable(self.load):
            raise TypeError(f"load must be a function that returns a number from 0 to 1, got {self.load!r}")

    def _check_times(self) -> None:
        for name in ("ttl", "heartbeat_interval", "probe_interval", "request_timeout", "connect_timeout"):
            check_positive(name, getattr(self, name))
        if not is_number(self.drain_timeout) or not self.drain_timeout >= 0:
            raise ValueError(f"drain_timeout must be 0 or more seconds, got {self.drain_timeout!r}")
        if self.ttl <= self.heartbeat_interval:
            raise ValueError(
                f"ttl ({self.ttl:g} s) must be longer than heartbeat_interval ({self.heartbeat_interval:g} s), "
                "or every node expires between two heartbeats: use at least three times as long"
            )
        if self.ttl <= self.probe_interval:
            raise ValueError(f"ttl ({self.ttl:g} s) must be longer than probe_interval ({self.probe_interval:g} s)")

    @property
    def membership(self) -> MembershipSettings:
        """The times of membership."""
        return MembershipSettings(
            ttl=self.ttl,
            heartbeat_interval=self.heartbeat_interval,
            probe_interval=self.probe_interval,
            observe_only=self.observe_only,
        )


def default_routing(routing: RoutingStrategy | None) -> RoutingStrategy:
    """`routing`, or round robin; raises TypeError for a class in place of an instance."""
    if routing is None:
        return RoundRobin()
    if isinstance(routing, type) or not isinstance(routing, RoutingStrategy):
        raise TypeError(f"routing must be a strategy object such as RoundRobin(), got {routing!r}")
    return routing


def default_node_id() -> str:
    """The host's name and something no other process has."""
    return f"{platform.node() or 'node'}-{secrets.token_hex(4)}"[-128:]


def check_prefix(prefix: str) -> None:
    """Raise ValueError unless `prefix` can begin subjects, channels and keys."""
    if not prefix or any(c in prefix for c in " *>\t\r\n") or prefix.strip(".") != prefix:
        raise ValueError(f"prefix must be a word of letters, digits, '-', '_' and inner dots, got {prefix!r}")


def check_name(what: str, name: str) -> None:
    """Raise ValueError unless `name` can be an id."""
    if not isinstance(name, str) or not 1 <= len(name) <= 128 or not name.isprintable() or name != name.strip():
        raise ValueError(f"{what} must be 1 to 128 printable characters without spaces around them, got {name!r}")


def check_metadata(metadata: Mapping[str, str]) -> None:
    """Raise TypeError unless all of it is text: the others could not read the node's record."""
    if not isinstance(metadata, Mapping):
        raise TypeError(f"metadata must be a dictionary of texts, got {metadata!r}")
    for name, value in metadata.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"metadata must be text, both name and value: write {str(name)!r}: {str(value)!r}")


def check_options(given: Iterable[str], known: Iterable[str]) -> None:
    """Raise TypeError for an option of the backend's that looks like a slip of the pen for one of catga's."""
    for name in given:
        meant = get_close_matches(name, known, n=1, cutoff=0.85)  # nats-py's and redis-py's own are farther away
        if meant:
            raise TypeError(f"there is no option {name!r}: did you mean {meant[0]!r}?")
