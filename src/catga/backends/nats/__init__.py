"""``nats://`` and ``tls://``: subjects for everything. Ready for servers from 2.10 on.

`connection` is the one client connection of a node, `transport` moves batches over it, and the records of the
members travel by `discovery` (pub/sub: the members are the store) or by `kv` (a JetStream bucket).
"""

from catga.abc import Backend, BackendSettings
from catga.backends.nats.client import address
from catga.backends.nats.connection import NatsConnection
from catga.backends.nats.discovery import NatsNodeDiscovery
from catga.backends.nats.transport import NatsTransport

__all__ = ["NatsConnection", "NatsNodeDiscovery", "NatsTransport", "open_backend"]


def open_backend(settings: BackendSettings) -> Backend:
    """The backend of a ``nats://`` or ``tls://`` URL. Options: those of `add_nats_cluster`."""
    options = dict(settings.options)
    discovery = options.pop("discovery", "pubsub")
    address(settings.url)  # what is no address is told before the start
    connection = NatsConnection(settings.url, settings.connect_timeout, options, settings.prefix)
    transport = NatsTransport(connection, settings.prefix)
    if discovery == "kv":
        from catga.backends.nats.kv import NatsKvNodeDiscovery

        return Backend(NatsKvNodeDiscovery(connection, settings.prefix, settings.ttl, settings.signer), transport)
    if discovery != "pubsub":
        raise ValueError(f"discovery must be 'pubsub' or 'kv', got {discovery!r}")
    return Backend(NatsNodeDiscovery(connection, settings.prefix, settings.signer), transport)
