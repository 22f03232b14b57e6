"""Strangers on a NATS bus who ask for the view, or take the questions of others."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import nats
import pytest
from nats.aio.msg import Msg
from nodes import members, node

from catga.abc import Sighting
from catga.backends.nats.quota import BYTES, RATE, Quota
from catga.membership.exchange import encode_view
from catga.node import NodeInfo
from catga.testing.waiting import eventually

KEYS = [b"0123456789abcdef"]


@asynccontextmanager
async def stranger(url: str) -> AsyncIterator[Any]:
    async with await nats.connect(url) as client:
        yield client


async def test_the_view_is_told_to_reply_boxes_of_the_cluster_only(nats_url: str) -> None:
    async with node(nats_url, "a", prefix="boxes"), stranger(nats_url) as client:
        foreign, own = list[bytes](), list[bytes]()

        async def on_foreign(message: Msg) -> None:
            foreign.append(message.data)

        async def on_own(message: Msg) -> None:
            own.append(message.data)

        await client.subscribe("orders.shipped", cb=on_foreign)
        await client.subscribe("boxes.reply.mine", cb=on_own)
        for subject in ("boxes.sync", "boxes.sync.a"):
            await client.publish(subject, b"", reply="orders.shipped")
            await client.publish(subject, b"", reply="boxes.reply.mine")  # behind it
        await client.flush()
        await eventually(lambda: len(own) == 2)
        assert foreign == []


async def test_a_signed_view_is_told_to_signed_questions_only(nats_url: str) -> None:
    async with node(nats_url, "a", prefix="asked", signing_keys=KEYS), stranger(nats_url) as client:
        answers = await client.subscribe("asked.reply.mine")
        await client.publish("asked.sync", b"", reply="asked.reply.mine")
        answer = await answers.next_msg(30)
        assert answer.data.startswith(b'{"nodes":[],"mac":')


async def test_answers_are_bounded_in_number(nats_url: str) -> None:
    async with node(nats_url, "a", prefix="flood") as a, stranger(nats_url) as client:
        count = 0

        async def on_answer(_: Msg) -> None:
            nonlocal count
            count += 1

        await client.subscribe("flood.reply.mine", cb=on_answer)
        for _ in range(2_000):
            await client.publish("flood.sync.a", b"", reply="flood.reply.mine")
        await client.publish("flood.reply.mine", b"")
        await client.flush()
        await eventually(lambda: count > 0)
        async with node(nats_url, "b", prefix="flood") as b:  # others are answered as before, if later
            await eventually(lambda: members(a) == members(b) == ["a", "b"])
        assert count < 2_000


async def test_a_quota_admits_a_burst_then_its_rate_and_pays_for_large_answers() -> None:
    quota = Quota()
    assert sum(quota.admit() for _ in range(1_000)) == pytest.approx(RATE, abs=RATE / 2)
    quota = Quota()
    quota.spend(int(10 * BYTES))
    assert not quota.admit()


async def test_who_swallows_the_questions_of_joiners_hides_nobody_from_them(nats_url: str) -> None:
    first, second = node(nats_url, "a", prefix="thief"), node(nats_url, "b", prefix="thief")
    async with first, second, stranger(nats_url) as thief:
        for _ in range(200):
            await thief.subscribe("thief.sync", queue="sync")
        await thief.flush()
        async with node(nats_url, "new", prefix="thief") as new:
            await eventually(lambda: members(first) == members(new) == ["a", "b", "new"])


async def test_who_answers_joiners_with_lies_hides_nobody_from_them(nats_url: str) -> None:
    first, second = node(nats_url, "a", prefix="liar"), node(nats_url, "b", prefix="liar")
    async with first, second, stranger(nats_url) as liar:

        async def lie(question: Msg) -> None:
            for part in encode_view([Sighting(NodeInfo(node_id="fake", incarnation=1))], 65536):
                await question.respond(part)

        for _ in range(200):
            await liar.subscribe("liar.sync", queue="sync", cb=lie)
        await liar.flush()
        async with node(nats_url, "new", prefix="liar") as new:
            await eventually(lambda: {"a", "b", "new"} <= set(members(new)) and "new" in members(first))


async def test_a_node_that_joins_costs_the_others_a_few_messages_only(nats_url: str) -> None:
    names = [f"n{number}" for number in range(30)]
    async with stranger(nats_url) as client:
        seen = list[str]()

        async def on_message(message: Msg) -> None:
            seen.append(message.subject)

        await client.subscribe("cost.sync.*", cb=on_message)
        nodes = [node(nats_url, name, prefix="cost") for name in names]
        await asyncio.gather(*(each.start() for each in nodes))
        await eventually(lambda: all(len(members(each)) == len(names) for each in nodes), 30)
        await asyncio.sleep(5.0)  # each has asked its further questions by then
        await asyncio.gather(*(each.stop() for each in nodes))
        assert len(seen) <= 10 * len(names)
