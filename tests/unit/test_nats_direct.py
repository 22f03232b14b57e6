"""However the socket cuts the stream: nats-py's parser and the shorter way beside it agree."""

import asyncio
import random
from itertools import combinations

import pytest
from nats.aio.transport import TcpTransport

from catga.backends.nats.direct import DirectClient

TRAP = b"MSG s 1 4\r\ntrap\r\n"
STREAM = b"".join(
    [
        b"MSG s 1 1\r\na\r\n",
        b"MSG s 1 bounce.1 %d\r\n%b\r\n" % (len(TRAP), TRAP),
        b"+OK\r\n",
        b"MSG s 1 0\r\n\r\n",
        b"HMSG s 1 12 15\r\nNATS/1.0\r\n\r\nxyz\r\n",  # by nats-py, to a subscription that is none
        b"MSG t 2 %d\r\n%b\r\n" % (len(TRAP), TRAP),
        b"MSG s 1 2\r\nbc\r\n",
    ]
)
EXPECTED = [b"a", TRAP, b"", b"bc"]


PAIRS = list(combinations(range(1, len(STREAM)), 2))


@pytest.mark.parametrize("step", [10, pytest.param(1, marks=pytest.mark.long)])
async def test_a_stream_cut_anywhere(step: int) -> None:
    """Once at each place, and twice: at every tenth pair of places, or at all."""
    dice = random.Random(1)
    for cuts in [(), *combinations(range(1, len(STREAM)), 1), *PAIRS[::step]]:
        client, got = DirectClient(), list[bytes]()
        client.take("s", None, got.append)
        reader = asyncio.StreamReader()
        client._transport = TcpTransport()
        client._transport._io_reader = reader
        reading = asyncio.create_task(client._read_loop())
        await asyncio.sleep(0)
        start = 0
        for end in (*cuts, len(STREAM)):
            reader.feed_data(STREAM[start:end])
            start = end
            if dice.random() < 0.7:
                await asyncio.sleep(0)
        reader.feed_eof()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait([reading])
        assert got == EXPECTED, cuts
