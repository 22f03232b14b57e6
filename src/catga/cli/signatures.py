"""Whether a cluster's records are signed, and with the keys that are given.

A node with other keys, or none, could not say: what it cannot verify is nothing to it, or, without keys, a member that
never answers.
"""

import asyncio
from collections import Counter
from contextlib import suppress
from enum import Enum

from catga.abc import BackendSettings
from catga.backends import open_backend
from catga.cli.keys import VARIABLE
from catga.cli.options import Where
from catga.errors import InvalidMessageError
from catga.rpc.signing import RECORD_MAC, RECORD_TAIL, Signer

PATIENCE = 4.0
"""Seconds to learn the records, once the broker is reached: members that do not tell them are no reason to stop."""


class Signed(Enum):
    """How a record is signed."""

    NOT = "not signed"
    KNOWN = "signed with one of the keys"
    OTHERWISE = "signed with another key"


class Witness:
    """A `RecordSigner` that lets everything in, and counts how it is signed."""

    def __init__(self, keys: tuple[bytes, ...]) -> None:
        self.seen: Counter[Signed] = Counter()
        self._signer = Signer(keys) if keys else None

    def seal_record(self, label: str, record: bytes) -> bytes:
        """The question, as who is asked answers no other."""
        return record if self._signer is None else self._signer.seal_record(label, record)

    def open_record(self, label: str, sealed: bytes) -> bytes:
        """`sealed`, as its signature is one more field of the record."""
        self.seen[self._how(label, sealed)] += 1
        return sealed

    def _how(self, label: str, sealed: bytes) -> Signed:
        if not sealed[-RECORD_TAIL:].startswith(RECORD_MAC):
            return Signed.NOT
        if self._signer is None:
            return Signed.OTHERWISE
        try:
            self._signer.open_record(label, sealed)
        except InvalidMessageError:
            return Signed.OTHERWISE
        return Signed.KNOWN


async def complaint(where: Where) -> str:
    """Why the keys in `where` are not those of the cluster, and what to do; "" if they are, or if there are no nodes.

    Raises:
        ClusterError: the broker cannot be reached.
        ValueError: the URL cannot work.
    """
    seen = await _look(where)
    wanted = Signed.KNOWN if where.signing_keys else Signed.NOT
    if seen[wanted] or not seen:
        return ""
    if not seen[Signed.OTHERWISE]:
        return f"this cluster is not signed: unset {VARIABLE}"
    if where.signing_keys:
        return f"this cluster is signed with other keys: set {VARIABLE} to its own"
    return f"this cluster is signed: set {VARIABLE}"


async def _look(where: Where) -> Counter[Signed]:
    witness = Witness(where.signing_keys)
    patience = where.connect_timeout
    settings = BackendSettings(url=where.url, prefix=where.prefix, connect_timeout=patience, signer=witness)
    discovery = open_backend(settings).discovery
    try:
        await discovery.watch(lambda _: None, None)
        with suppress(TimeoutError):
            await asyncio.wait_for(discovery.get_nodes(), PATIENCE)
    finally:
        await discovery.aclose()
    return witness.seen
