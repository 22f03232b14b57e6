"""The subjects of a cluster, all below its prefix."""

import secrets


def token(node_id: str) -> str:
    """`node_id` as one token of a subject: letters, digits, ``-`` and ``_`` stay, the rest becomes ``=XX``.

    Two ids never share a token.
    """
    return "".join(
        char if (char.isascii() and char.isalnum()) or char in "-_" else "".join(f"={b:02X}" for b in char.encode())
        for char in node_id
    )


def inbox(prefix: str, node_id: str, incarnation: int) -> str:
    """Where a node takes calls. A restarted node has another: calls to its former life find nobody."""
    return f"{prefix}.inbox.{token(node_id)}.{incarnation}"


def reply_box(prefix: str) -> str:
    """A fresh subject for replies, which nobody can guess."""
    return f"{prefix}.reply.{secrets.token_urlsafe(16)}"
