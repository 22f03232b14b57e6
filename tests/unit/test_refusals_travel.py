"""A caller takes a NO as final, as a node sees that speaks the wire by hand."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from catga import Mediator, NodeInfo, Request, add_cluster
from catga.abc import BackendSettings, Outgoing
from catga.backends import open_backend
from catga.errors import ClosedError
from catga.rpc.outcomes import fault_of
from catga.rpc.subjects import inbox
from catga.rpc.wire import VERSION, Batch, Call, Fault, Frame, Ping, Pong, Reply, decode_batch, encode_batch
from catga.testing import eventually

URL = "memory://refusals"


class Book(msgspec.Struct, Request[int], frozen=True):
    number: int


class Hand:
    """A member that is nothing but its inbox, and the caller."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.caller = add_cluster(Mediator(), URL, node_id="caller", request_timeout=5.0)
        self._backend = open_backend(BackendSettings(url=URL))
        self._box = ""

    async def open(self) -> None:
        await self.caller.start()
        await self._backend.transport.start(self)
        await self._backend.transport.subscribe(inbox("catga", "hand", 7))
        node = NodeInfo(node_id="hand", incarnation=7, handles=(f"{__name__}.Book",))
        await self._backend.discovery.register(node)
        await eventually(lambda: len(self.caller.get_nodes()) == 2)

    async def close(self) -> None:
        await self.caller.stop()
        await self._backend.transport.aclose()

    def say(self, *frames: Frame, epoch: int) -> None:
        batch = Batch(VERSION, "hand", 7, 0.0, "catga.reply.hand", list(frames), epoch)
        self._backend.transport.publish([Outgoing(self._box, encode_batch(batch), 1, False)])

    def on_message(self, payload: bytes) -> None:
        batch = decode_batch(payload)
        self._box = batch.reply_to
        self.calls += [frame for frame in batch.frames if isinstance(frame, Call)]
        for frame in batch.frames:
            if isinstance(frame, Ping):
                self.say(Pong(0, frame.nonce), epoch=0)

    def on_undeliverable(self, subject: str, token: int) -> None: ...
    def on_link(self, up: bool) -> None: ...


@pytest.fixture
async def hand() -> AsyncIterator[Hand]:
    hand = Hand()
    await hand.open()
    yield hand
    await hand.close()


def a_refusal(call_id: int) -> Fault:
    error = ClosedError("full")
    return fault_of(call_id, error)


async def test_a_refusal_that_comes_with_the_news_of_a_broken_link_is_not_followed_by_a_repeat(hand: Hand) -> None:
    sending = asyncio.ensure_future(hand.caller.send(Book(1)))
    await eventually(lambda: len(hand.calls) == 1)
    first = hand.calls[0].id
    hand.say(epoch=0)
    hand.say(a_refusal(first), epoch=1)
    await eventually(lambda: len(hand.calls) == 2)  # another attempt, after a pause
    assert hand.calls[1].id != first
    hand.say(Reply(hand.calls[1].id, msgspec.msgpack.encode(1)), epoch=1)
    assert (await sending).unwrap() == 1
    assert [call.id for call in hand.calls].count(first) == 1


async def test_a_repeat_that_has_not_left_is_withdrawn_by_the_answer(hand: Hand) -> None:
    sending = asyncio.ensure_future(hand.caller.send(Book(1)))
    await eventually(lambda: len(hand.calls) == 1)
    first = hand.calls[0].id
    hand.say(epoch=0)
    hand.say(epoch=1)  # both come in one turn: the repeat waits for its end
    hand.say(Reply(first, msgspec.msgpack.encode(1)), epoch=1)
    assert (await sending).unwrap() == 1
    await hand.caller.send_to_node(Book(2), "caller")  # some turns later
    assert [call.id for call in hand.calls] == [first]
