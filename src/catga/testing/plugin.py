"""The pytest plugin: brokers as fixtures, started when the first test asks for one, once a session.

    nats_server, redis_server   `catga.testing.servers.NatsServer` (with JetStream) and `RedisServer`
    nats_url, redis_url         their URLs

Tests share them, so give each test's cluster a ``prefix`` of its own. A test that kills, freezes or
restarts a broker starts one for itself.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from catga.testing.servers import NatsServer, RedisServer

__all__ = ["nats_server", "nats_url", "redis_server", "redis_url"]


@pytest.fixture(scope="session")
def nats_server() -> Iterator["NatsServer"]:
    """A nats-server with JetStream."""
    from catga.testing.servers import NatsServer

    with NatsServer(jetstream=True) as server:
        yield server


@pytest.fixture(scope="session")
def nats_url(nats_server: "NatsServer") -> str:
    """The URL of `nats_server`."""
    return nats_server.url


@pytest.fixture(scope="session")
def redis_server() -> Iterator["RedisServer"]:
    """A Valkey server."""
    from catga.testing.servers import RedisServer

    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def redis_url(redis_server: "RedisServer") -> str:
    """The URL of `redis_server`."""
    return redis_server.url
