"""Processes with one id, at a NATS server: each answers when the id is asked for its view."""

import asyncio
import secrets
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import nats.errors
from nats.aio.msg import Msg

from catga.abc import Sighting
from catga.backends.nats.client import nobody
from catga.cli.checks.nats import connected
from catga.cli.options import Where
from catga.membership.exchange import Part, digest
from catga.membership.records import MALFORMED
from catga.node import NodeInfo, token

PATIENCE = 2.0
"""Seconds that they have to answer: how many there are is what is asked."""


async def count(where: Where, members: Sequence[NodeInfo]) -> Counter[str]:
    """Node id → processes that answered."""
    try:
        async with connected(where) as client:
            return await _ask(client, where.prefix, members)
    except (nats.errors.Error, OSError, TimeoutError):
        return Counter()


async def _ask(client: Any, prefix: str, members: Sequence[NodeInfo]) -> Counter[str]:
    found: Counter[str] = Counter()
    box = f"{prefix}.reply.{secrets.token_urlsafe(16)}"

    async def on_part(message: Msg) -> None:
        if not nobody(message) and _is_last(message.data):
            found[members[int(message.subject.rpartition(".")[2])].node_id] += 1

    await client.subscribe(f"{box}.*", cb=on_part)
    known = digest([Sighting(member, 0.0) for member in members])  # short answers: what they differ in
    for number, member in enumerate(members):
        await client.publish(f"{prefix}.sync.{token(member.node_id)}", known, f"{box}.{number}")
    await asyncio.sleep(PATIENCE)
    return found


def _is_last(data: bytes) -> bool:
    try:
        return not msgspec.json.decode(data, type=Part).more
    except MALFORMED:
        return False
