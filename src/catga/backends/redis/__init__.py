"""``redis://`` and ``rediss://``: records in keys, everything else over Pub/Sub. Redis 6.2 and Valkey 7 or later.

What is in the server, for the prefix ``catga``:

======================== =======================================================================================
``catga:nodes:{id}``     a node's record, JSON, with the lease as its expiry; ``id`` is the plain node_id
``catga:nodes``          a hash, id → ``{tag} {end of the lease}``: the index of the records (`index.py`)
``catga:changes``        channel: every new or changed record whole, and ``{"left": id, "incarnation", "reason"}``;
                         ``catga:changes:{db}`` for another database than 0, as channels know no databases
``catga.inbox.*``, …     channels: requests and replies
``catga.queue.{type}``   a set, if nodes take this message type from a queue: their channels, ``….{random}`` each
======================== =======================================================================================

Every node has two connections, one that subscribes and one for all commands. The count that ``PUBLISH``
returns tells at once that nobody listens. It would not, were somebody on a replica: nodes leave a server that
became one, and their name is resolved anew.

Keyspace notifications are used for one thing, if the server has them on: a node whose own key vanishes (deleted,
evicted, expired while the server was frozen) stores it again at once rather than at its next heartbeat. For
the deaths of others they bring nothing: an ``expired`` event comes after the lease, where the probe needs two
seconds, and proves no death, since a frozen server expires the keys of the living. They are never asked for
with ``CONFIG SET``.

A Redis Cluster is not supported (a Sentinel-managed primary is, by ``client=``).
"""

import secrets

from catga.abc import Backend, BackendSettings
from catga.backends.options import check_options
from catga.backends.redis.connect import OPTIONS, Connector
from catga.backends.redis.discovery import RedisNodeDiscovery
from catga.backends.redis.link import RedisLink
from catga.backends.redis.transport import RedisTransport

__all__ = ["RedisNodeDiscovery", "RedisTransport", "open_backend"]


def open_backend(settings: BackendSettings) -> Backend:
    """The backend of a ``redis://`` or ``rediss://`` URL. Options: those of `add_redis_cluster`.

    Raises:
        TypeError: there is no such option, or it has another type.
        ValueError: a part of the URL that redis-py does not know; a prefix with ``:nodes`` in it.
    """
    check_options(settings.options, OPTIONS, "redis")
    if ":nodes" in settings.prefix:
        raise ValueError(f"prefix must not contain ':nodes', or keys of two clusters clash, got {settings.prefix!r}")
    own = f"{settings.prefix}.reply.{secrets.token_urlsafe(16)}"
    link = RedisLink(Connector(settings.url, dict(settings.options)), settings.connect_timeout, own)
    return Backend(RedisNodeDiscovery(link, settings.prefix, settings.ttl, settings.signer), RedisTransport(link))
