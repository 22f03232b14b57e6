"""Processes with one id, at a NATS server: each answers when the id is asked for its view."""

import asyncio
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
from catga.membership.records import MALFORMED, Seal
from catga.node import NodeInfo, token
from catga.rpc.signing import Signer
from catga.rpc.subjects import reply_box

PATIENCE = 2.0
"""Seconds that they have to answer: how many there are is what is asked."""


async def count(where: Where, members: Sequence[NodeInfo]) -> Counter[str]:
    """Node id → processes that answered."""
    try:
        async with connected(where) as client:
            return await _ask(client, where, members)
    except (nats.errors.Error, OSError, TimeoutError):
        return Counter()


async def _ask(client: Any, where: Where, members: Sequence[NodeInfo]) -> Counter[str]:
    found: Counter[str] = Counter()
    boxes = {reply_box(where.prefix): member for member in members}

    async def on_part(message: Msg) -> None:
        if not nobody(message) and _is_last(message.data):
            found[boxes[message.subject].node_id] += 1

    seal = Seal(Signer(where.signing_keys) if where.signing_keys else None, where.prefix)
    known = digest([Sighting(member, 0.0) for member in members])  # short answers: what they differ in
    for box, member in boxes.items():
        await client.subscribe(box, cb=on_part)
        await client.publish(f"{where.prefix}.sync.{token(member.node_id)}", seal.close_bytes(known, box), box)
    await asyncio.sleep(PATIENCE)
    return found


def _is_last(data: bytes) -> bool:
    try:
        return not msgspec.json.decode(data, type=Part).more
    except MALFORMED:
        return False
