"""python bench/fuzz.py [--runs 200000]: atheris drives every decoder of bytes from the bus, guided by coverage.

Needs ``pip install atheris``. The first input that raises anything but `InvalidMessageError` ends the run with a
traceback and a crash file.
"""

import argparse
import sys
from contextlib import suppress

import atheris

with atheris.instrument_imports(include=["catga"]):
    import msgspec

    from catga import NodeInfo
    from catga.abc import Departure
    from catga.cluster.stats import Stats
    from catga.codec import Codec
    from catga.errors import CatgaError, InvalidMessageError
    from catga.membership.exchange import decode_view, encode_view
    from catga.membership.records import decode_announcement, decode_record, encode_departure, encode_record
    from catga.node import LeftReason
    from catga.rpc.outcomes import error_of
    from catga.rpc.signing import Signer
    from catga.rpc.wire import (
        VERSION,
        Ask,
        Batch,
        Call,
        Cancel,
        Fault,
        Ping,
        Pong,
        Reply,
        Tell,
        decode_batch,
        encode_batch,
    )

SIGNER = Signer([b"0123456789abcdef"])
CODEC = Codec(Stats)


def seeds() -> list[bytes]:
    """Valid inputs to mutate."""
    frames = [
        Call(1, "catga.Stats", 1000, b"\x80", 2, {"a": "b"}),
        Reply(1, b"\x01"),
        Fault(1, "timeout", "text", {"a": [1]}, True, CatgaError("x").execution),
        Ping(1),
        Pong(5, 1, 2),
        Ask(1, "b", 5),
        Tell(1, 0.5),
        Cancel(1),
    ]
    node = NodeInfo(node_id="a", incarnation=1, handles=("x",), metadata={"k": "v"})
    batch = encode_batch(Batch(VERSION, "a", 1, 0.5, "p.reply.a", frames))
    records = [encode_record(node), encode_departure(Departure("a", 1, LeftReason.CRASHED, sequence=4))]
    views = list(encode_view([Departure("b", 1, LeftReason.DRAINED)], 1024 * 1024))
    sealed = [SIGNER.seal("p.inbox.a.1", batch), SIGNER.seal_record("p", records[0])]
    return [bytes([kind]) + data for kind in range(6) for data in (batch, *records, *views, *sealed)]


def read_batch(data: bytes) -> None:
    for frame in decode_batch(data).frames:
        if type(frame) is Fault:
            error_of(frame)


def read_record(data: bytes) -> None:
    decode_record(encode_record(decode_record(data)))


def read_view(data: bytes) -> None:
    observations, _ = decode_view(data)
    for part in encode_view(observations, 1024 * 1024):
        decode_view(part)


READERS = [
    read_batch,
    read_record,
    decode_announcement,
    read_view,
    CODEC.decode,
    lambda data: SIGNER.open(("p.inbox.a.1", "p.reply.a"), data),
    lambda data: SIGNER.open_record("p", data),
]


def one_input(data: bytes) -> None:
    """The first byte chooses the reader."""
    if not data:
        return
    with suppress(InvalidMessageError):
        READERS[data[0] % len(READERS)](data[1:])


def main() -> None:
    import tempfile
    from pathlib import Path

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200_000)
    runs = parser.parse_args().runs
    folder = Path(tempfile.mkdtemp(prefix="catga-fuzz-"))
    for number, seed in enumerate(seeds()):
        (folder / str(number)).write_bytes(seed)
    assert msgspec.msgpack.decode(seeds()[0][1:])
    atheris.Setup(
        [sys.argv[0], f"-runs={runs}", f"-artifact_prefix={folder}/", "-max_len=4096", str(folder)], one_input
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
