"""The subjects of a cluster, all below its prefix."""

import secrets
from functools import lru_cache

from catga.node import token


@lru_cache(maxsize=16_384)  # asked for with every call
def inbox(prefix: str, node_id: str, incarnation: int) -> str:
    """Where a node takes calls. A restarted node has another: calls to its former life find nobody."""
    return f"{prefix}.inbox.{token(node_id)}.{incarnation}"


@lru_cache(maxsize=16_384)
def queue(prefix: str, name: str) -> str:
    """Where nodes that handle messages of this wire name take them, each message one of the nodes."""
    return f"{prefix}.queue.{token(name)}"


def reply_box(prefix: str) -> str:
    """A fresh subject for replies, which nobody can guess."""
    return f"{prefix}.reply.{secrets.token_urlsafe(16)}"
