"""Messages to the socket of a nats-py client, past its own queue."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

from nats.protocol import command

from catga.backends.joining import BrokenError
from catga.backends.nats.client import is_socket
from catga.errors import ClusterError

BUFFER = 64 * 1024
"""Bytes that wait for the socket until there is no room for more."""

Publication: TypeAlias = tuple[str, bytes, str]
"""(subject, payload, reply subject or "")"""

pack_publish: Callable[[str, str, bytes], bytes] = cast(Any, command).pub_cmd
pack_unsubscribe: Callable[[int, int], bytes] = cast(Any, command).unsub_cmd


def pack(client: Any, messages: Sequence[Publication]) -> list[bytes]:
    """Return `messages` as commands, and count them as sent. Raises `ClusterError` if one is too large."""
    limit, size = client.max_payload, 0
    commands: list[bytes] = []
    for subject, data, reply in messages:
        if len(data) > limit:
            raise ClusterError(f"the server takes {limit} bytes, a message has {len(data)}")
        size += len(data)
        commands.append(pack_publish(subject, reply, data))
    client.stats["out_msgs"] += len(commands)
    client.stats["out_bytes"] += size
    return commands


def write(client: Any, commands: list[bytes]) -> bool:
    """Write `commands`. Returns whether there is room for more. nats-py's flusher does the same, but as a task, in a
    later turn of the event loop. Raises `BrokenError` if the socket is being closed, or is lost."""
    if not is_socket(client):
        client._pending += commands
        client._pending_data_size += sum(map(len, commands))
        if client._flush_queue.empty():
            client._flush_queue.put_nowait(asyncio.get_running_loop().create_future())
        return bool(client._pending_data_size <= BUFFER)
    writer = client._transport._io_writer
    if writer is None or writer.is_closing():
        raise BrokenError("the link is down")
    if client._pending:  # what was handed to the client itself goes first
        commands, client._pending = [*client._pending, *commands], []
        client._pending_data_size = 0
    socket = writer.transport
    socket.write(b"".join(commands))  # `writelines` of Python 3.12.0 to 3.12.8 ignores a full buffer
    return bool(socket.get_write_buffer_size() <= BUFFER)
