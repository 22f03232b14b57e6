"""The pytest plugin: brokers as fixtures, started when the first test asks for one, once a session.

- ``nats_server`` and ``redis_server`` are a `catga.testing.servers.NatsServer` (with JetStream) and a `RedisServer`.
- ``nats_url`` and ``redis_url`` are their URLs.

Tests share them, so give each test's cluster a ``prefix`` of its own. A test that kills, freezes or
restarts a broker starts one for itself.

Mediators are strict in tests: what would change on its way to another node changes in one process, too. The setting
``catga_strict = false`` in pytest's configuration file turns that off. If the environment variable ``CATGA_STRICT`` is
set, it decides alone.
"""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from catga.testing.servers import NatsServer, RedisServer

STRICT = "CATGA_STRICT"
"""As in `catga.mediator.mediator`, whose import would cost every run of pytest."""

__all__ = ["nats_server", "nats_url", "redis_server", "redis_url"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the setting ``catga_strict``."""
    parser.addini("catga_strict", "Mediators are strict unless they say strict=False.", type="bool", default=True)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Make mediators strict before the first conftest is imported: it may make some."""
    _set_strict(early_config)


def pytest_configure(config: pytest.Config) -> None:
    """Make mediators strict if a conftest names this plugin, which so was not there before."""
    _set_strict(config)


def _set_strict(config: pytest.Config) -> None:
    """For child processes too, until the end of this run, unless the environment has a word on it."""
    if config.getini("catga_strict") and STRICT not in os.environ:
        os.environ[STRICT] = "1"
        config.add_cleanup(_unset_strict)


def _unset_strict() -> None:
    os.environ.pop(STRICT, None)


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
