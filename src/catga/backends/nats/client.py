"""What is asked of any nats-py client, one that was handed in included."""

import asyncio
import logging
import ssl
from collections.abc import Awaitable
from typing import Any
from urllib.parse import unquote, urlsplit

import nats.errors
from nats.aio.msg import Msg
from nats.aio.transport import TcpTransport

from catga.backends import redact
from catga.backends.joining import BrokenError, UnansweredError
from catga.errors import ClusterError

logger = logging.getLogger("catga.backends.nats")

OPERATION_TIMEOUT = 5.0
"""Seconds until a round trip to the broker counts as failed."""
LOOK_INTERVAL = 0.05
"""Seconds between looks whether the connection is still the same."""


class NoTlsError(nats.errors.Error):
    """The server offers no TLS, and was to be spoken to by TLS alone."""


def address(url: str) -> tuple[list[str], dict[str, Any]]:
    """The servers that a URL names, and its credentials as options of nats-py's ``connect``: that takes no %XX in URLs.

    ``nats://user:secret@a:4222,b:4222`` names two servers. What follows the first has its scheme, unless it is a URL of
    its own; the credentials of the first are for all.
    """
    scheme = url.partition("://")[0]
    parts = [urlsplit(each if "://" in each else f"{scheme}://{each}") for each in url.split(",")]
    if not all(part.hostname for part in parts):
        raise ValueError(f"{redact(url)!r} names a server without a host")
    if any(part.path.strip("/") or part.query or part.fragment for part in parts):
        text = "has more than hosts and credentials: give options to add_cluster, such as add_cluster(..., user=...)"
        raise ValueError(f"{redact(url)!r} {text}")
    bare = [part._replace(netloc=part.netloc.rpartition("@")[2]).geturl() for part in parts]
    user, password = parts[0].username, parts[0].password
    if user is None:
        return bare, {}
    if password is None:
        return bare, {"token": unquote(user)}
    return bare, {"user": unquote(user), "password": unquote(password)}


async def bounded(
    operation: Awaitable[Any], url: str, what: str, timeout: float = OPERATION_TIMEOUT, *, quiet: bool = False
) -> Any:
    """Return the result of `operation`. Raises `ClusterError` if it fails, or takes too long, unless `quiet`.

    Args:
        url: without its password, for the error.
    """
    try:
        async with asyncio.timeout(timeout):
            return await operation
    except Exception as error:  # nats-py lets through what asyncio and uvloop raise about a socket that was lost
        if quiet:
            logger.debug("%s failed", what, extra={"catga_error": repr(error)})
            return None
        if isinstance(error, ClusterError):
            raise
        raise _kind(error)(f"{url}: {what} failed: {error!r}") from error


def _kind(error: BaseException) -> type[ClusterError]:
    if isinstance(error, ConnectionResetError):
        return BrokenError
    return UnansweredError if isinstance(error, TimeoutError) else ClusterError


async def flush(client: Any) -> None:
    """A round trip to the server, behind everything handed to `client` before. The caller bounds it.

    Raises ConnectionResetError when the connection was lost meanwhile: its answer was lost with it, and the client has
    another connection by now, or none.

    Not nats-py's own: its PING overtakes commands that its flusher has not yet taken, and when it is cancelled or late
    it leaves a cancelled future behind, at which the PONG ends the client's reading.
    """
    pause = 0.0
    while client.pending_data_size:
        await asyncio.sleep(pause)
        pause = 0.001
    answered = asyncio.get_running_loop().create_future()
    await client._send_ping(answered)
    waiting = client._pongs  # each connection has a list of its own
    while not answered.done():
        await asyncio.wait([answered], timeout=LOOK_INTERVAL)
        if not answered.done() and (client._pongs is not waiting or client.is_closed):
            raise ConnectionResetError("the connection was lost")


async def drain(client: Any, subscription: Any) -> None:
    """Return once the server sends nothing more to `subscription`, and what it had sent is handled. The caller bounds
    it. Not nats-py's own, which flushes as above: what comes between its PING and its UNSUB is dropped, of a queue
    requests."""
    await client._send_unsubscribe(subscription._id)
    await flush(client)
    await subscription._pending_queue.join()


def is_socket(client: Any) -> bool:
    """Else it is a WebSocket, which needs a task to write."""
    return isinstance(client._transport, TcpTransport)


def is_closing(client: Any) -> bool:
    """Whether its socket is being closed, or lost."""
    return is_socket(client) and (writer := client._transport._io_writer) is not None and writer.is_closing()


async def shut(client: Any) -> None:
    """Close the client, and its socket even if that fails or is cancelled: nats-py's own close may stop half-way."""
    try:
        await client.close()
    finally:
        if is_socket(client) and (writer := client._transport._io_writer) is not None:
            writer.transport.abort()


def nobody(message: Msg) -> bool:
    """Whether this is the server's word that nobody listens on the subject."""
    return not message.data and message.headers is not None and message.headers.get("Status") == "503"


def hopeless(error: Exception) -> str:
    """What the server will say at every attempt, and is no use waiting for; "" for all else."""
    text = str(error)
    if "authorization" in text.lower():
        return "refused the credentials: " + text.removeprefix("nats: ").strip("'")
    if isinstance(error, NoTlsError):
        return "offers no TLS: use nats://, or have the server speak TLS"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"has a certificate that cannot be verified: {error.verify_message}"
    return ""
