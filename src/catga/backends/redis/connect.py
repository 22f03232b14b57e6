"""Connections to the server: bare ones of redis-py, without its pool, and its errors in our words."""

import asyncio
from typing import Any, cast

from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, parse_url
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from catga.backends import redact
from catga.errors import ClusterError

CONNECT_TIMEOUT = 2.0
"""Seconds until one attempt to connect has failed."""

# Ours whatever the URL or a ready-made client says: no time-outs, retries or health checks behind our back,
# bytes as they are.
_FORCED: dict[str, Any] = {
    "socket_timeout": None,
    "socket_connect_timeout": CONNECT_TIMEOUT,
    "decode_responses": False,
    "health_check_interval": 0,
    "protocol": 2,
}
# What belongs to redis-py's pool, or to features that need its client.
_DROPPED = ("max_connections", "timeout", "retry", "retry_on_timeout", "retry_on_error", "himport_registry")


class RefusedError(ClusterError):
    """The server refused the credentials: trying again will not help."""


class Connector:
    """Makes connections to one server.

    Args:
        options: keyword arguments of redis-py's connections, over what the URL says; or ``client``, a ready-made
            ``redis.asyncio.Redis`` whose address, credentials and TLS are used, and which is left alone.

    Raises:
        ValueError: redis-py does not know an option.
    """

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        self.url = redact(url)
        client = options.pop("client", None)
        found = self._of_url(url) if client is None else self._of_client(client)
        self._class: type[AbstractConnection] = found.pop("connection_class", Connection)
        self._kwargs = _clean(found) | options | _FORCED
        self.db = int(self._kwargs.get("db") or 0)
        if any(name.startswith("ssl_") for name in self._kwargs) and not issubclass(self._class, SSLConnection):
            raise ValueError(f"TLS options need a rediss:// URL, got {self.url!r}")
        try:
            self._class(**self._kwargs)
        except (TypeError, ValueError, RedisError) as error:
            raise ValueError(f"bad options for {self.url}: {error}") from error

    async def connect(self) -> AbstractConnection:
        """A connection that has answered a PING.

        Raises:
            RefusedError: wrong credentials.
            ClusterError: anything else that went wrong, within a bounded time.
        """
        connection = self._class(**self._kwargs)
        try:
            async with asyncio.timeout(2 * CONNECT_TIMEOUT):
                await connection.connect()  # type: ignore[no-untyped-call]
                await connection.send_packed_command(connection.pack_command("PING"), check_health=False)
                await connection.read_response()
        except (AuthenticationError, NoPermissionError) as error:
            abort(connection)
            raise RefusedError(f"{self.url} refused the credentials: {error}") from error
        except (RedisError, OSError, TimeoutError) as error:
            abort(connection)
            raise ClusterError(f"{self.url} could not be reached: {str(error) or 'no answer'}") from error
        except BaseException:
            abort(connection)
            raise
        return connection

    def _of_url(self, url: str) -> dict[str, Any]:
        return cast("dict[str, Any]", parse_url(url))

    def _of_client(self, client: Any) -> dict[str, Any]:
        pool = getattr(client, "connection_pool", None)
        if pool is None:
            raise ValueError(f"client must be a redis.asyncio.Redis, got {client!r}")
        return {**pool.connection_kwargs, "connection_class": pool.connection_class}


def abort(connection: AbstractConnection) -> None:
    """Close the socket now. A mere close would wait for a frozen server to read what is buffered."""
    writer: asyncio.StreamWriter | None = getattr(connection, "_writer", None)
    if writer is not None:
        writer.transport.abort()
        connection._close()  # type: ignore[no-untyped-call]  # pyright: ignore[reportPrivateUsage]


def _clean(found: dict[str, Any]) -> dict[str, Any]:
    dropped = {name for name in found if name.startswith(("maint", "orig_", "oss_")) or name in _DROPPED}
    return {name: value for name, value in found.items() if name not in dropped}
