"""``nats://`` and ``tls://``: subjects for everything. Ready for servers from 2.10 on.

`connection` is the one client connection of a node, `transport` moves batches over it, and the records of the
members travel by `discovery` (pub/sub: the members are the store) or by `kv` (a JetStream bucket).
"""

from typing import Any, Literal

from nats.aio.client import Client

from catga.abc import Backend, BackendSettings
from catga.backends.nats.connection import CALLBACKS, NatsConnection
from catga.backends.nats.discovery import NatsNodeDiscovery
from catga.backends.nats.transport import NatsTransport
from catga.backends.options import check_options, options_of

__all__ = ["NatsConnection", "NatsNodeDiscovery", "NatsTransport", "open_backend"]


_OURS = {"servers", "no_echo", "connect_timeout", "drain_timeout", *CALLBACKS}
"""Arguments of ``nats.connect`` that are none of the options: catga sets them. With ``no_echo`` a node could not hear
itself."""
OPTIONS: dict[str, Any] = {
    **{name: kind for name, kind in options_of(Client.connect).items() if name not in _OURS},
    "client": Client,
    "discovery": Literal["pubsub", "kv"],
}
"""What may be given, each with its type."""


def open_backend(settings: BackendSettings) -> Backend:
    """The backend of a ``nats://`` or ``tls://`` URL. Options: those of `add_nats_cluster`, and what else
    ``nats.connect`` takes, but for the callbacks and ``no_echo``, which are needed here.

    Raises:
        TypeError: there is no such option, or it has another type.
        ValueError: it is no value of the option, the URL names no host, or the URL has more than hosts and credentials.
    """
    options = dict(settings.options)
    discovery = options.pop("discovery", "pubsub")
    if discovery not in ("pubsub", "kv"):
        raise ValueError(f"discovery must be 'pubsub' or 'kv', got {discovery!r}")
    check_options(options, OPTIONS, "nats")
    connection = NatsConnection(settings.url, settings.connect_timeout, options, settings.prefix)
    transport = NatsTransport(connection, settings.prefix)
    if discovery == "kv":
        from catga.backends.nats.kv import NatsKvNodeDiscovery

        return Backend(NatsKvNodeDiscovery(connection, settings.prefix, settings.ttl, settings.signer), transport)
    return Backend(NatsNodeDiscovery(connection, settings.prefix, settings.signer), transport)
