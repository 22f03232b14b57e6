"""The subjects of a cluster, all below its prefix."""

import secrets

from catga.node import token


def inbox(prefix: str, node_id: str, incarnation: int) -> str:
    """Where a node takes calls. A restarted node has another: calls to its former life find nobody."""
    return f"{prefix}.inbox.{token(node_id)}.{incarnation}"


def reply_box(prefix: str) -> str:
    """A fresh subject for replies, which nobody can guess."""
    return f"{prefix}.reply.{secrets.token_urlsafe(16)}"
