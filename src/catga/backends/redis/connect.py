"""Connections to the server. redis-py makes them (addresses, TLS, credentials); from there on the streams are ours.

redis-py's own reading and writing costs several times as much for each message, connects again unasked, and
closes a connection whose user is cancelled.
"""

import asyncio
import ssl
from contextlib import suppress
from typing import Any, cast
from urllib.parse import urlsplit

import hiredis
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, parse_url
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from catga.backends import redact
from catga.backends.options import fits, options_of, words
from catga.errors import ClusterError

CONNECT_TIMEOUT = 2.0
"""Seconds until one attempt to connect has failed."""
READ_SIZE = 65_536
BUFFER = 64 * 1024
"""Bytes that wait for the socket until there is no room for more."""

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
_INTERNAL = ("maint", "orig_", "oss_", "himport_", "event_", "parser")
"""How arguments of redis-py's connections begin that are for its own use."""
_INITS = [getattr(cls, "__init__") for cls in SSLConnection.__mro__[:-1]]  # noqa: B009
OPTIONS: dict[str, Any] = {
    **{name: kind for name, kind in options_of(*_INITS).items() if not name.startswith(_INTERNAL)},
    "client": Any,
    "username": str | bytes | None,
    "password": str | bytes | None,
}
"""What may be given, each with its type: redis-py hands on whatever one class does not know to the next."""


class RefusedError(ClusterError):
    """Wrong credentials, or a wrong certificate: trying again will not help."""


class ReplicaError(ClusterError):
    """The server is a replica: it takes no records, and what is published there stays there."""


def tells_replica(reply: Any) -> bool:
    """Whether a reply to HELLO, or an error, is that of a replica."""
    if isinstance(reply, Exception):
        return "READONLY" in str(reply)
    parts: list[Any] = cast(Any, reply) if isinstance(reply, list) else []
    return any(isinstance(part, bytes) and part == b"replica" for part in parts)


def tells_unwell(error: Exception) -> bool:
    """Whether an error reply says that the server cannot serve. Any other reply proves that it is alive."""
    return any(word in str(error) for word in ("LOADING", "MASTERDOWN", "READONLY"))


def takes_no_writes(error: Exception) -> bool:
    """Whether a server refuses to write, and nothing else: its disk or memory is full, or it misses replicas."""
    return any(word in str(error) for word in ("MISCONF", "OOM ", "NOREPLICAS"))


class Wire:
    """A connection that is ready for commands: bytes out, replies in."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._parser = hiredis.Reader()

    @property
    def is_open(self) -> bool:
        """Whether nothing has closed it yet."""
        return not self._writer.is_closing()

    async def read(self) -> list[Any]:
        """The replies that came together, if any; an error reply is a ``hiredis.ReplyError`` among them.

        Raises:
            OSError: the server closed the connection.
            hiredis.ProtocolError: it is no Redis.
        """
        data = await self._reader.read(READ_SIZE)
        if not data:
            raise ConnectionResetError("the server closed the connection")
        self._parser.feed(data)
        replies: list[Any] = []
        while (reply := self._parser.gets()) is not False:
            replies.append(reply)
        return replies

    def write(self, data: bytes) -> bool:
        """Send now. Returns whether there is room for more. A lost connection is the reader's to report."""
        if not self.is_open:
            return True
        self._writer.write(data)
        return self._writer.transport.get_write_buffer_size() <= BUFFER

    async def drain(self) -> None:
        """Return once there is room for more, or the connection is lost."""
        with suppress(OSError):
            await self._writer.drain()

    def abort(self) -> None:
        """Close the socket now. A mere close would wait for a frozen server to read what is buffered."""
        self._writer.transport.abort()


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
        self.db = _database(self._kwargs.get("db") or 0)
        if any(name.startswith("ssl_") for name in self._kwargs) and not issubclass(self._class, SSLConnection):
            raise ValueError(f"TLS options need a rediss:// URL, got {self.url!r}")
        try:
            self._class(**self._kwargs)
        except (TypeError, ValueError, AttributeError, RedisError) as error:
            raise ValueError(f"bad options for {self.url}: {error}") from error

    async def connect(self) -> Wire:
        """A connection that has answered a PING, to a server that is no replica as far as it tells.

        Raises:
            RefusedError: wrong credentials, or a certificate that cannot be verified.
            ReplicaError: it is a replica.
            ClusterError: anything else that went wrong, within a bounded time.
        """
        connection = self._class(**self._kwargs)
        try:
            async with asyncio.timeout(2 * CONNECT_TIMEOUT):
                await connection.connect()  # type: ignore[no-untyped-call]
                await self._greet(connection)
            return _take(connection)
        except (AuthenticationError, NoPermissionError) as error:
            raise RefusedError(f"{self.url} refused the credentials: {error}") from error
        except ClusterError:
            raise
        except Exception as error:  # also of a credential provider, or of an option that fails in use
            bad = error.__cause__ or error.__context__ or error
            if isinstance(bad, ssl.SSLCertVerificationError):
                why = f"{bad.verify_message} (CERTIFICATE_VERIFY_FAILED)"
                raise RefusedError(f"{self.url} has a certificate that cannot be verified: {why}") from error
            raise ClusterError(f"{self.url} could not be reached: {_told(error)}") from error
        finally:
            if connection.is_connected:
                _take(connection).abort()

    async def _greet(self, connection: AbstractConnection) -> None:
        await connection.send_packed_command(connection.pack_command("PING"), check_health=False)
        try:
            await connection.read_response()
        except ResponseError as error:  # MISCONF, say: a server that takes no writes refuses PING, and yet is well
            if isinstance(error, NoPermissionError) or tells_unwell(error):
                raise
        await connection.send_packed_command(connection.pack_command("HELLO", 2), check_health=False)
        with suppress(ResponseError):  # not known, or forbidden: then the first READONLY tells
            if tells_replica(await connection.read_response()):
                raise ReplicaError(f"{self.url} is a replica")

    def _of_url(self, url: str) -> dict[str, Any]:
        if urlsplit(url).path.strip("/") and not urlsplit(url).path[1:].isdecimal():
            raise ValueError(f"the path of {self.url!r} must be the number of a database, such as /0")
        found = cast("dict[str, Any]", parse_url(url))
        known = OPTIONS | dict.fromkeys((*_DROPPED, "connection_class"), Any)
        for name, value in found.items():
            if name not in known:
                raise ValueError(f"{self.url!r} has an option {name!r}, but redis:// has {', '.join(sorted(OPTIONS))}")
            if not fits(value, known[name]):
                raise ValueError(f"{name!r} is {words(known[name])}: give it to add_cluster, not in {self.url!r}")
        return found

    def _of_client(self, client: Any) -> dict[str, Any]:
        pool = getattr(client, "connection_pool", None)
        if pool is None or not issubclass(pool.connection_class, AbstractConnection):  # that of a plain Redis is none
            raise ValueError(f"client must be a redis.asyncio.Redis, got {client!r}")
        return {**pool.connection_kwargs, "connection_class": pool.connection_class}


def _told(error: Exception) -> str:
    if isinstance(error, RedisError | OSError):
        return str(error) or "no answer"
    return repr(error)


def _database(number: Any) -> int:
    if isinstance(number, float) or not str(number).isdecimal():
        raise ValueError(f"db must be the number of a database, got {number!r}")
    return int(number)


def _take(connection: Any) -> Wire:
    """The streams of a connection, which then knows them no more."""
    wire = Wire(connection._reader, connection._writer)
    connection._reader = connection._writer = None
    return wire


def _clean(found: dict[str, Any]) -> dict[str, Any]:
    dropped = {name for name in found if name.startswith(("maint", "orig_", "oss_")) or name in _DROPPED}
    return {name: value for name, value in found.items() if name not in dropped}
