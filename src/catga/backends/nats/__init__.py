"""``nats://`` and ``tls://``: subjects for everything. Ready for servers from 2.10 on.

`connection` is the one client connection of a node, `transport` moves batches over it, and the records of the
members travel by `discovery` (pub/sub: the members are the store) or by `kv` (a JetStream bucket).
"""

from nats.aio.client import Client

from catga.abc import Backend, BackendSettings
from catga.backends import check_options
from catga.backends.nats.connection import CALLBACKS, NatsConnection
from catga.backends.nats.discovery import NatsNodeDiscovery
from catga.backends.nats.transport import NatsTransport
from catga.hints import signature_of

__all__ = ["NatsConnection", "NatsNodeDiscovery", "NatsTransport", "open_backend"]


OPTIONS = {*signature_of(Client.connect).parameters, "client", "discovery"} - {"self", "servers", *CALLBACKS}


def open_backend(settings: BackendSettings) -> Backend:
    """The backend of a ``nats://`` or ``tls://`` URL. Options: those of `add_nats_cluster`, and what else
    ``nats.connect`` takes, but for the callbacks, which are needed here.

    Raises:
        TypeError: there is no such option.
        ValueError: it is no value of the option, or the URL names no host.
    """
    check_options(settings.options, OPTIONS, "nats")
    options = dict(settings.options)
    discovery = options.pop("discovery", "pubsub")
    connection = NatsConnection(settings.url, settings.connect_timeout, options, settings.prefix)
    transport = NatsTransport(connection, settings.prefix)
    if discovery == "kv":
        from catga.backends.nats.kv import NatsKvNodeDiscovery

        return Backend(NatsKvNodeDiscovery(connection, settings.prefix, settings.ttl, settings.signer), transport)
    if discovery != "pubsub":
        raise ValueError(f"discovery must be 'pubsub' or 'kv', got {discovery!r}")
    return Backend(NatsNodeDiscovery(connection, settings.prefix, settings.signer), transport)
