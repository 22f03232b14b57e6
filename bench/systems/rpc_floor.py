"""The floor: futures and batches on catga's own transport, and nothing else a call needs.

No routing, no failover, no deadlines, no types, no bound of anything, no admission, no statistics, no task a call: what
is left is the broker, its client library, the event loop, and the caller's own future.
"""

import asyncio
import itertools

import msgspec
from harness import answer, for_ever, main, role

from catga.abc import BackendSettings, Outgoing
from catga.backends import open_backend

encode, decode = msgspec.msgpack.encode, msgspec.msgpack.Decoder(tuple[str, list[tuple[int, str]]]).decode
SPLIT, FULL = 16, 64


class Bus:
    """Lists of (id, text) by subject, with the split that catga's outbox makes. Args: on_frames: of a sender."""

    def __init__(self, url, on_frames):
        self.transport = open_backend(BackendSettings(url=url, prefix="floor")).transport
        self.on_frames = on_frames
        self.queues = {}
        self.is_due = False

    async def start(self):
        await self.transport.start(self)
        await self.transport.subscribe(f"floor.{role}")

    def put(self, subject, frame, full):
        frames = self.queues.setdefault(subject, [])
        frames.append(frame)
        if len(frames) >= full:
            del self.queues[subject]
            self.send(subject, frames)
        elif not self.is_due:
            self.flush_soon()

    def flush_soon(self):
        if not self.is_due:
            self.is_due = True
            asyncio.get_running_loop().call_soon(self.flush)

    def flush(self):
        self.is_due = False
        queues, self.queues = self.queues, {}
        for subject, frames in queues.items():
            self.send(subject, frames)

    def send(self, subject, frames):
        self.transport.publish([Outgoing(subject, encode((f"floor.{role}", frames)), 0, False)])

    def on_message(self, payload):
        self.on_frames(*decode(payload))
        self.flush_soon()

    def on_link(self, up):
        pass


async def worker(url):
    async def echo(text):
        return text

    async def handle(sender, frames):
        for number, text in frames:
            bus.put(sender, (number, await echo(text)), FULL)

    bus = Bus(url, lambda sender, frames: asyncio.ensure_future(handle(sender, frames)))
    await bus.start()
    await for_ever()


async def caller(url):
    pending, ids = {}, itertools.count()
    create_future = asyncio.get_running_loop().create_future

    def on_frames(_, frames):
        for number, text in frames:
            pending.pop(number).set_result(text)

    bus = Bus(url, on_frames)
    await bus.start()

    async def call(payload):
        number = next(ids)
        future = pending[number] = create_future()
        bus.put("floor.worker", (number, payload), min(max(len(pending) >> 1, SPLIT), FULL))
        await future

    await answer(call)


main(worker, caller)
