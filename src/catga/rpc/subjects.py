"""The subjects of a cluster, all below its prefix."""

import re
import secrets
from functools import lru_cache

from catga.errors import InvalidMessageError
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


def check_reply_box(prefix: str, subject: str) -> None:
    """Raise `InvalidMessageError` unless `subject` is one of these. It came from outside, and is published to."""
    if re.fullmatch(rf"{re.escape(prefix)}\.reply\.[A-Za-z0-9_-]{{1,64}}", subject) is None:
        raise InvalidMessageError(f"a batch that wants its replies on {subject[:80]!r}")
