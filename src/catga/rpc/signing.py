"""Optional signatures on batches, for nodes that share a bus they do not trust.

    sealed  0xC1 | key id (4) | sender (8) | counter (8) | mac (16) | batch

0xC1 begins no msgpack value, so sealed and plain batches cannot be confused. The mac is HMAC-SHA256 (RFC
2104, cut to 128 bits as RFC 4868 does) over the subject and everything behind it: a batch recorded on one
subject is worthless on another, and a restarted node has other subjects. Within a node's life the counter
stops replays, by the sliding window of RFC 4303 (section 3.4.3), one a sender and subject.

Members' records are JSON, and stay so (a broker's script reads them): their signature is the last field,
``"mac"``, over a label and all before it. They need no counter: an old record never replaces a newer one.
"""

import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Sequence

from catga.errors import InvalidMessageError
from catga.hidden import Hidden

MAGIC = 0xC1
HEADER = 37
WINDOW = 1024
"""How far behind the newest a batch from one sender to one subject may come."""
MAX_SENDERS = 16_384
MIN_KEY = 16
RECORD_MAC = b',"mac":"'
RECORD_TAIL = len(RECORD_MAC) + 64 + 2


def _are_keys(keys: object) -> bool:
    if isinstance(keys, bytes | str) or not isinstance(keys, Sequence):
        return False
    return all(isinstance(key, bytes) for key in keys)  # pyright: ignore[reportUnknownVariableType]


class Signer:
    """Seals what this node sends and opens what others sealed with one of the keys.

    Args:
        keys: secrets of at least 16 bytes. The first signs, all verify: to change the key, first give
            ``[old, new]`` to every node, then ``[new, old]``, then ``[new]``.

    Raises:
        ValueError: no key, or one too short.
        TypeError: text, or a single key in place of several.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not _are_keys(keys):
            raise TypeError("signing_keys must be a list of bytes: [secret.encode()]")
        if not keys or any(len(key) < MIN_KEY for key in keys):
            raise ValueError(f"signing_keys must be one or more secrets of at least {MIN_KEY} bytes")
        self._keys = {_key_id(key): Hidden(key) for key in keys}
        self._key_id = _key_id(keys[0])
        self._key = self._keys[self._key_id]
        self._sender = secrets.token_bytes(8)
        self._counter = 0
        self._seen: OrderedDict[tuple[bytes, str], tuple[int, int]] = OrderedDict()
        """(sender, subject) → newest counter, bits of those before."""

    def __repr__(self) -> str:
        return f"Signer({len(self._keys)} keys)"

    def renewed(self) -> "Signer":
        """Return one with the same keys for another process: a counter belongs to one sender."""
        return Signer([key.reveal() for key in self._keys.values()])

    def seal(self, subject: str, batch: bytes) -> bytes:
        """`batch` as it goes to `subject`."""
        self._counter += 1
        counted = self._sender + self._counter.to_bytes(8, "big")
        return b"%c%b%b%b%b" % (MAGIC, self._key_id, counted, _mac(self._key, subject, counted, batch), batch)

    def open(self, subjects: Sequence[str], sealed: bytes) -> bytes:
        """The batch in `sealed`, which came on one of `subjects`.

        Raises:
            InvalidMessageError: it is not signed, by an unknown key, wrongly, for another subject, or a replay.
        """
        if len(sealed) < HEADER or sealed[0] != MAGIC:
            raise InvalidMessageError("an unsigned batch")
        key = self._keys.get(sealed[1:5])
        if key is None:
            raise InvalidMessageError("a batch signed with an unknown key")
        counted, mac, batch = sealed[5:21], sealed[21:HEADER], sealed[HEADER:]
        for subject in subjects:
            if hmac.compare_digest(mac, _mac(key, subject, counted, batch)):
                break
        else:
            raise InvalidMessageError("a batch with a wrong signature")
        if not self._is_new((counted[:8], subject), int.from_bytes(counted[8:], "big")):
            raise InvalidMessageError("a replayed batch")
        return batch

    def seal_record(self, label: str, record: bytes) -> bytes:
        """`record`, a JSON object with fields, with its signature as the last one."""
        return b'%b%b%b"}' % (record[:-1], RECORD_MAC, self._record_mac(self._key_id, label, record))

    def open_record(self, label: str, sealed: bytes) -> bytes:
        """The record in `sealed`. Raises `InvalidMessageError`: it is not signed for `label` with one of the keys."""
        body, mac = sealed[:-RECORD_TAIL], sealed[-RECORD_TAIL:]
        if not (mac.startswith(RECORD_MAC) and mac.endswith(b'"}')):
            raise InvalidMessageError("an unsigned record")
        given, record = mac[len(RECORD_MAC) : -2], body + b"}"
        for key_id in self._keys:
            if hmac.compare_digest(given, self._record_mac(key_id, label, record)):
                return record
        raise InvalidMessageError("a record with a wrong signature")

    def _record_mac(self, key_id: bytes, label: str, record: bytes) -> bytes:
        signed = b"record %b\x00%b" % (label.encode(), record)
        return hmac.digest(self._keys[key_id].reveal(), signed, "sha256").hex().encode()

    def _is_new(self, sender: tuple[bytes, str], counter: int) -> bool:
        newest, bits = self._seen.get(sender, (0, 0))
        behind = newest - counter
        if behind >= WINDOW or (behind >= 0 and bits >> behind & 1):
            return False
        if behind < 0:
            newest, bits = counter, bits << min(-behind, WINDOW) | 1
        else:
            bits |= 1 << behind
        self._seen[sender] = (newest, bits & ((1 << WINDOW) - 1))
        self._seen.move_to_end(sender)
        if len(self._seen) > MAX_SENDERS:
            self._seen.popitem(last=False)
        return True


def _key_id(key: bytes) -> bytes:
    return hashlib.sha256(b"catga key id" + key).digest()[:4]


def _mac(key: Hidden[bytes], subject: str, counted: bytes, batch: bytes) -> bytes:
    name = subject.encode()
    return hmac.digest(key.reveal(), b"%b\x00%b%b" % (name, counted, batch), "sha256")[:16]
