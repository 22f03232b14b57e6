"""`NodeDiscovery` with records in keys, an index of them, and a channel of changes."""

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

from catga.abc import Departure, Observation, RecordSigner, Sighting
from catga.backends.redis.connect import takes_no_writes
from catga.backends.redis.index import READ, REMOVE, STORE, tag
from catga.backends.redis.link import RedisLink
from catga.errors import ClusterError, InvalidMessageError
from catga.membership.records import Seal, decode_announcement, decode_record, encode_departure, encode_record
from catga.node import NodeInfo

logger = logging.getLogger("catga.backends.redis")

RESTORE, MAX_RESTORE = 1.0, 10.0
"""Seconds between attempts to store a record while the server takes no writes: each pause is twice the last one."""


class RedisNodeDiscovery:
    """`NodeDiscovery` in Redis. Each method is one round trip.

    Args:
        ttl: seconds; the expiry of a record.
    """

    def __init__(self, link: RedisLink, prefix: str, ttl: float, signer: RecordSigner | None = None) -> None:
        self._link = link
        self._seal = Seal(signer, prefix if link.db == 0 else f"{prefix}:{link.db}")
        self._index = f"{prefix}:nodes"
        self._channel = f"{prefix}:changes" if link.db == 0 else f"{prefix}:changes:{link.db}"
        self._ttl = ttl
        self._observe: Callable[[Observation], None] = lambda _: None
        self._recall: Callable[[], Iterable[Observation]] = tuple
        self._mine: NodeInfo | None = None  # the record of this node, while it should be stored
        self._restoring: asyncio.Task[None] | None = None
        self._open = False
        self.ignored = 0
        """Records and announcements that were none."""

    async def register(self, node: NodeInfo) -> None:
        first, self._mine = self._mine is None, node
        await self._link.persist(lambda: self._store(node, announce=True))
        if first:
            await self._watch_own_key(node.node_id)

    async def heartbeat(self, node: NodeInfo) -> None:
        self._mine = node
        await self._store(node, announce=False)

    async def unregister(self, end: Departure) -> None:
        if self._mine is not None and self._mine.node_id == end.node_id:
            self._mine = None
        news = self._seal.close(encode_departure(end))
        keys = (self._key(end.node_id), self._index, self._channel)
        try:
            await self._run(REMOVE, keys, news, *end.version, end.node_id)
        except ClusterError as error:
            if not takes_no_writes(error):
                raise
            await self._link.call("PUBLISH", self._channel, news)

    async def get_nodes(self) -> Sequence[Observation]:
        known = [each.node for each in self._recall() if isinstance(each, Sighting)]
        tags = "".join(map(tag, known))
        rests, *news = await self._link.persist(lambda: self._run(READ, [self._index], tags, int(self._ttl * 1000)))
        found = [
            Sighting(node, self._ttl * (255 - rest) / 254) for node, rest in zip(known, rests, strict=True) if rest
        ]
        sightings = (self._sighting(*news[i : i + 3]) for i in range(0, len(news), 3))
        return found + [sighting for sighting in sightings if sighting is not None]

    async def watch(
        self, observe: Callable[[Observation], None], recall: Callable[[], Iterable[Observation]] | None
    ) -> None:
        await self._link.open()
        self._open = True
        self._observe, self._recall = observe, recall or tuple
        await self._link.subscribe(self._channel, self._on_change)

    async def aclose(self) -> None:
        if not self._open:
            return
        self._open = False
        if self._restoring is not None:
            self._restoring.cancel()
        try:
            await self._link.unsubscribe(self._channel)
        finally:  # also if whoever leaves gives up: nobody comes here again
            await self._link.close()

    def _key(self, node_id: str) -> str:
        return f"{self._index}:{node_id}"

    async def _run(self, script: str, keys: Sequence[str], *args: str | bytes | int) -> Any:
        try:
            return await self._link.call("EVAL", script, len(keys), *keys, *args)
        except ClusterError as error:
            if "WRONGTYPE" not in str(error):
                raise
            raise ClusterError(f"the key {self._index!r} is not catga's, or an older version's: {error}") from error

    async def _store(self, node: NodeInfo, *, announce: bool) -> bool:
        """Store the record. Returns whether that was possible: if the server takes no writes now, the record is
        announced all the same, and stored later."""
        try:
            await self._write(node, announce=announce)
            return True
        except ClusterError as error:
            if not takes_no_writes(error):
                raise
            self._link.complaints.tell(f"records cannot be stored now: {error}")
            if announce:
                await self._link.call("PUBLISH", self._channel, self._seal.close(encode_record(node)))
            self._restore_later(RESTORE)
            return False

    async def _write(self, node: NodeInfo, *, announce: bool) -> None:
        newer = await self._try_store(node, announce=announce, force=False)
        if newer is None:
            return
        sighting = self._sighting(node.node_id.encode(), newer, int(self._ttl * 1000))
        if sighting is not None:
            self._tell(sighting)
        else:
            await self._try_store(node, announce=announce, force=True)

    async def _try_store(self, node: NodeInfo, *, announce: bool, force: bool) -> bytes | None:
        keys = [self._key(node.node_id), self._index, *([self._channel] if announce else [])]
        args = (
            self._seal.close(encode_record(node)),
            int(self._ttl * 1000),
            node.incarnation,
            node.sequence,
            node.node_id,
            tag(node),
            "force" if force else "",
        )
        newer: bytes | None = await self._run(STORE, keys, *args)
        return newer

    def _sighting(self, node_id: bytes, data: bytes, remaining: int) -> Sighting | None:
        """A stored record, as old as its lease is used up. None if it is none, or another node's."""
        if remaining < 0:
            self._ignore(InvalidMessageError(f"a foreign value in the index for {node_id!r}"))
        try:
            node = decode_record(self._seal.open(data))
            if node.node_id.encode() != node_id:
                raise InvalidMessageError(f"a record of {node.node_id!r} under the key of {node_id!r}")
        except InvalidMessageError as error:
            self._ignore(error)
            return None
        return Sighting(node, max(self._ttl - max(remaining, 0) / 1000, 0.0))

    def _on_change(self, data: bytes) -> None:
        try:
            self._tell(decode_announcement(self._seal.open(data)))
        except InvalidMessageError as error:
            self._ignore(error)

    def _tell(self, observation: Observation) -> None:
        mine = self._mine
        if mine is not None and isinstance(observation, Sighting):
            node = observation.node
            if node.node_id == mine.node_id and node.incarnation > mine.incarnation:
                self._mine = None  # the key is another process's by now
        self._observe(observation)

    def _ignore(self, error: InvalidMessageError) -> None:
        self.ignored += 1
        if self.ignored == 1:
            logger.warning(
                "foreign data among the records is ignored; from now on it is only counted",
                extra={"catga_error": str(error)},
            )

    # -- a hint, where the server gives it ------------------------------------------------------------

    async def _watch_own_key(self, node_id: str) -> None:
        with suppress(ClusterError):  # forbidden: the next heartbeat does it
            channel = f"__keyspace@{self._link.db}__:{self._key(node_id)}"
            await self._link.subscribe(channel, self._on_key_event, hint=True)

    def _on_key_event(self, event: bytes) -> None:
        if event in (b"del", b"expired", b"evicted", b"unlink"):
            self._restore_later(0.0)

    # -- again, if it was not stored ------------------------------------------------------------------

    def _restore_later(self, pause: float) -> None:
        if self._restoring is None and self._mine is not None:
            self._restoring = asyncio.create_task(self._restore(pause), name="catga-redis-restore")

    async def _restore(self, pause: float) -> None:
        """Store the record after a pause, and again while the server takes no writes. Each attempt announces it, too:
        a node that joins meanwhile finds no record."""
        announce = pause > 0
        try:
            await asyncio.sleep(pause)
            while self._mine is not None and not await self._store(self._mine, announce=announce):
                pause = min(max(2 * pause, RESTORE), MAX_RESTORE)
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
        except ClusterError as error:
            logger.debug("the record could not be stored again", extra={"catga_error": str(error)})
        finally:
            self._restoring = None
