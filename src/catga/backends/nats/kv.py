"""``nats://`` with ``discovery="kv"``: the records in a JetStream key-value bucket, with a lease each.

For the prefix ``catga`` the bucket is ``catga_nodes``, its keys are node ids (``=XX`` for what a key cannot
hold) and its values records as JSON. It needs nats-server 2.11 or later, started with ``-js``. ``nats kv``
reads it as any bucket.

Watching is a plain subscription to the bucket's subjects, not a JetStream consumer: those go deaf when the server
restarts, or the bucket is made anew. What a subscription misses, the next snapshot has.

A heartbeat must not wake every watcher, so it is published to ``catga.lease.{key}``, which the stream stores under
the key itself (a subject transform). A departure is the body of the key's delete marker. Writes name the revision
they replace, so that no process overwrites a record newer than its own.
"""

import asyncio
import logging
import math
import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
import nats.errors
from nats.aio.msg import Msg

from catga.abc import Departure, Observation, RecordSigner, Sighting
from catga.backends.nats.connection import REQUEST_TIMEOUT, NatsConnection
from catga.backends.nats.listening import Listening
from catga.errors import ClusterError, InvalidMessageError
from catga.membership.records import Seal, decode_announcement, decode_record, encode_departure, encode_record
from catga.node import NodeInfo, token

logger = logging.getLogger("catga.backends.nats")

OLDEST_SERVER = (2, 11)
TRIES = 5
"""Attempts at a write that others contend for, or at a server whose JetStream is not ready yet."""
RETRY_DELAY = 0.3
CHUNK = 512
"""Records fetched at once; the server allows 1,024."""
NOT_FOUND, NAME_IN_USE, WRONG_REVISION = 10059, 10058, (10071, 10164)


class _Error(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _Config(msgspec.Struct):
    allow_msg_ttl: bool = False
    allow_direct: bool = False
    subjects: list[str] = []


class _State(msgspec.Struct):
    subjects: dict[str, int] | None = None


class _Answer(msgspec.Struct):
    """What of JetStream's answers matters here."""

    error: _Error | None = None
    seq: int = 0
    ts: datetime | None = None
    config: _Config = msgspec.field(default_factory=_Config)
    state: _State = msgspec.field(default_factory=_State)


class _Entry(NamedTuple):
    revision: int
    observation: Observation | None


_answer_decoder = msgspec.json.Decoder(_Answer)


class NatsKvNodeDiscovery:
    """`NodeDiscovery` in a JetStream key-value bucket.

    Args:
        ttl: seconds, rounded up to whole ones; the expiry of a record.
    """

    def __init__(self, connection: NatsConnection, prefix: str, ttl: float, signer: RecordSigner | None = None) -> None:
        self.bucket = bucket_name(prefix)
        self._seal = Seal(signer, prefix)
        self._connection = connection
        self._stream = f"KV_{self.bucket}"
        self._values = f"$KV.{self.bucket}."
        self._leases = f"{prefix}.lease."
        self._ttl = math.ceil(ttl)
        self._observe: Callable[[Observation], None] = lambda _: None
        self._subscription: Listening | None = None
        self._mine: NodeInfo | None = None  # the record of this node, while it should be stored
        self._revision = 0  # of the record of this node, as far as known
        self._ensured = False  # that the bucket exists, since the link last broke
        self._open = False
        self.ignored = 0
        """Values that were no records."""

    async def register(self, node: NodeInfo) -> None:
        await self._connection.persist(lambda: self._keep(node, self._values))

    async def heartbeat(self, node: NodeInfo) -> None:
        await self._keep(node, self._leases)

    async def unregister(self, end: Departure) -> None:
        if self._mine is not None and self._mine.node_id == end.node_id:
            self._mine = None
        key, marker = token(end.node_id), self._seal.close(encode_departure(end))
        for _ in range(TRIES):
            entry = await self._get(key)
            if isinstance(entry.observation, Sighting) and entry.observation.node.version > end.version:
                return
            headers = {"KV-Operation": "DEL", "Nats-TTL": f"{2 * self._ttl}s"}
            if await self._put(self._values + key, marker, entry.revision, headers) is not None:
                return
        raise ClusterError(f"the record of {end.node_id} changes all the time")

    async def get_nodes(self) -> Sequence[Observation]:
        return await self._connection.persist(self._read)

    async def _read(self) -> Sequence[Observation]:
        query = msgspec.json.encode({"subjects_filter": f"{self._values}*"})
        info = await self._api(f"STREAM.INFO.{self._stream}", query)
        if info.error is not None and info.error.err_code == NOT_FOUND:
            await self._restore()
            return []
        self._check(info)
        subjects = list(info.state.subjects or ())
        found: list[Observation] = []
        for start in range(0, len(subjects), CHUNK):
            messages = await self._fetch(subjects[start : start + CHUNK])
            entries = (self._entry(message, info.ts) for message in messages)
            found.extend(entry.observation for entry in entries if entry.observation is not None)
        return found

    async def watch(
        self, observe: Callable[[Observation], None], recall: Callable[[], Iterable[Observation]] | None
    ) -> None:
        await self._connection.open()
        self._open = True
        self._connection.on_link.append(self._on_link)
        self._observe = observe
        await self._connection.persist(self._create_bucket)
        self._subscription = await self._connection.persist(self._subscribe)

    async def _subscribe(self) -> Listening:
        return await self._connection.subscribe(f"{self._values}*", self._on_entry)

    async def aclose(self) -> None:
        if not self._open:
            return
        self._open = False
        await self._connection.close([] if self._subscription is None else [self._subscription])

    # -- the bucket -----------------------------------------------------------------------------------

    async def _create_bucket(self) -> None:
        version = self._connection.client.connected_server_version
        if (version.major, version.minor) < OLDEST_SERVER:
            raise ClusterError(
                f"nats-server {version.major}.{version.minor} has no per-key TTL: "
                "discovery='kv' needs 2.11 or later; upgrade it, or use discovery='pubsub'"
            )
        answer = await self._api(f"STREAM.CREATE.{self._stream}", msgspec.json.encode(self._config()))
        if answer.error is not None and answer.error.err_code == NAME_IN_USE:  # with more replicas, say
            answer = await self._api(f"STREAM.INFO.{self._stream}", b"")
        self._check(answer)
        config = answer.config
        if not (config.allow_msg_ttl and config.allow_direct and f"{self._leases}*" in config.subjects):
            raise ClusterError(
                f"the bucket {self.bucket} exists, but was not made by catga: delete it, or use another prefix"
            )
        self._ensured = True

    def _config(self) -> dict[str, Any]:
        return {
            "name": self._stream,
            "description": "members of a catga cluster",
            "subjects": [f"{self._values}>", f"{self._leases}*"],
            "subject_transform": {"src": f"{self._leases}*", "dest": f"{self._values}$1"},
            "max_msgs_per_subject": 1,
            "allow_msg_ttl": True,
            "allow_direct": True,
            "allow_rollup_hdrs": True,
            "deny_delete": True,
            "discard": "new",
            "storage": "memory",
            "num_replicas": 1,
        }

    async def _restore(self) -> None:
        """The bucket is gone: make it anew, with this node in it."""
        await self._create_bucket()
        if self._mine is not None:
            await self._store(self._mine, self._leases)

    async def _ensure(self) -> None:
        for attempt in range(TRIES):
            if self._ensured:
                return
            try:
                await self._create_bucket()
            except ClusterError:
                if attempt == TRIES - 1 or not self._connection.is_up:
                    raise
                await asyncio.sleep(RETRY_DELAY)  # a restarted server has no JetStream at first

    def _on_link(self, up: bool) -> None:
        self._ensured = False

    async def _api(self, subject: str, body: bytes) -> _Answer:
        try:
            message = await self._connection.request(f"$JS.API.{subject}", body)
        except ClusterError as error:
            if isinstance(error.__cause__, nats.errors.NoRespondersError):
                raise ClusterError(
                    "the server has no JetStream: start nats-server with -js, or use discovery='pubsub'"
                ) from error
            raise
        return self._decode(message)

    def _decode(self, message: Msg) -> _Answer:
        try:
            return _answer_decoder.decode(message.data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ClusterError(f"not an answer of JetStream: {error}") from error

    def _check(self, answer: _Answer) -> None:
        if answer.error is not None:
            raise ClusterError(
                f"JetStream refuses the bucket {self.bucket}: {answer.error.description} "
                f"({answer.error.err_code}); allow it, or use discovery='pubsub'"
            )

    # -- its entries ----------------------------------------------------------------------------------

    async def _keep(self, node: NodeInfo, where: str) -> None:
        mine = self._mine
        if mine is not None and mine.node_id == node.node_id and mine.version > node.version:
            return  # a heartbeat that an update has overtaken
        self._mine = node
        await self._store(node, where)

    async def _store(self, node: NodeInfo, where: str) -> None:
        key = token(node.node_id)
        for _ in range(TRIES):
            await self._ensure()
            headers = {"Nats-TTL": f"{self._ttl}s"}
            revision = await self._put(where + key, self._seal.close(encode_record(node)), self._revision, headers)
            if revision is not None:
                self._revision = revision
                return
            entry = await self._get(key)
            self._revision = entry.revision
            if entry.observation is not None and _outranks(entry.observation, node):
                self._observe(entry.observation)
                return
            where = self._leases  # watchers have heard it by now, stored or not
        raise ClusterError(f"the record of {node.node_id} changes all the time")

    async def _put(self, subject: str, value: bytes, revision: int, headers: dict[str, str]) -> int | None:
        """Write over `revision`; returns the new one. None if that was not the last one, or the bucket was gone."""
        headers = {**headers, "Nats-Expected-Last-Subject-Sequence": str(revision)}
        try:
            answer = self._decode(await self._connection.request(subject, value, headers))
        except ClusterError:
            if not self._ensured or not self._connection.is_up:
                raise
            self._ensured = False
            await self._ensure()
            return None
        if answer.error is not None and answer.error.err_code in WRONG_REVISION:
            return None
        self._check(answer)
        return answer.seq

    async def _get(self, key: str) -> _Entry:
        message = await self._connection.request(f"$JS.API.DIRECT.GET.{self._stream}.{self._values}{key}", b"")
        return self._entry(message, None)

    async def _fetch(self, subjects: Sequence[str]) -> list[Msg]:
        """The last message on each of `subjects`, by one request. https://github.com/nats-io/nats-architecture-and-design
        (ADR-31, batched direct get)."""
        found: list[Msg] = []
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def on_part(message: Msg) -> None:
            if "Status" not in (message.headers or {}):
                found.append(message)
            elif not ended.done():
                ended.set_result(None)

        box = self._connection.client.new_inbox() + secrets.token_urlsafe(16)  # below the user's inbox_prefix
        subscription = await self._connection.subscribe(box, on_part)
        try:
            query = msgspec.json.encode({"multi_last": subjects})
            self._connection.publish([(f"$JS.API.DIRECT.GET.{self._stream}", query, box)])
            done, _ = await asyncio.wait([ended], timeout=REQUEST_TIMEOUT)
        finally:
            await self._connection.unsubscribe(subscription)
        if not done:
            raise ClusterError(f"JetStream did not send the bucket {self.bucket}")
        return found

    async def _on_entry(self, message: Msg) -> None:
        observation = self._parse(message.subject, message.data, message.headers or {}, 0.0)
        if observation is not None:
            self._observe(observation)

    def _entry(self, message: Msg, now: datetime | None) -> _Entry:
        """A stored message; `now` is the server's clock."""
        headers = message.headers or {}
        if "Nats-Sequence" not in headers:
            return _Entry(0, None)
        age = 0.0 if now is None else (now - datetime.fromisoformat(headers["Nats-Time-Stamp"])).total_seconds()
        observation = self._parse(headers["Nats-Subject"], message.data, headers, max(age, 0.0))
        return _Entry(int(headers["Nats-Sequence"]), observation)

    def _parse(self, subject: str, data: bytes, headers: Mapping[str, str], age: float) -> Observation | None:
        deleted = "KV-Operation" in headers or "Nats-Marker-Reason" in headers
        if deleted and not data:  # an operator's, or the server's: absence proves nothing
            return None
        try:
            data = self._seal.open(data)
            observation = decode_announcement(data) if deleted else Sighting(decode_record(data), age)
            node_id = observation.node_id if isinstance(observation, Departure) else observation.node.node_id
            if subject != self._values + token(node_id):
                raise InvalidMessageError(f"a record of {node_id!r} under {subject!r}")
        except InvalidMessageError as error:
            self._ignore(error)
            return None
        return observation

    def _ignore(self, error: InvalidMessageError) -> None:
        self.ignored += 1
        if self.ignored == 1:
            logger.warning(
                "foreign data among the records is ignored; from now on it is only counted",
                extra={"catga_error": str(error)},
            )


def bucket_name(prefix: str) -> str:
    """The bucket of a cluster: two prefixes never share one."""
    escaped = re.sub(r"[^A-Za-z0-9-]", lambda found: "".join(f"_{b:02X}" for b in found[0].encode()), prefix)
    return f"{escaped}_nodes"


def _outranks(stored: Observation, mine: NodeInfo) -> bool:
    """Whether what is stored is news to its own node: a newer life of it, or its end."""
    if isinstance(stored, Departure):
        return stored.version >= mine.version
    return stored.node.version > mine.version
