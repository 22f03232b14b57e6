"""Routing in a running cluster."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest

from catga import (
    ConsistentHash,
    DistributedMediator,
    Failure,
    LocalFirst,
    Mediator,
    NodeInfo,
    Request,
    RoundRobin,
    add_cluster,
    message,
)
from catga.abc import RoutingStrategy
from catga.cluster import OutlierEjection
from catga.errors import (
    CatgaTimeoutError,
    HandlerError,
    HandlerNotFoundError,
    InvalidMessageError,
    NoNodeAvailableError,
)
from catga.routing import LoadBased, PreferZone, Queue, Where
from catga.testing.waiting import eventually

names = count()


@message(key="sku", name="routing.Reserve")
@dataclass(frozen=True)
class Reserve(Request[str]):
    sku: str
    number: int = 0


@message(name="routing.Ask")
@dataclass(frozen=True)
class Ask(Request[str]):
    pass


@message(name="routing.AskMore")
@dataclass(frozen=True)
class AskMore(Ask):
    pass


@message(key="number", name="routing.Work")
@dataclass(frozen=True)
class Work(Request[int]):
    number: int


class Town:
    """A cluster whose nodes note what arrives where."""

    def __init__(self, url: str, prefix: str) -> None:
        self.url = url
        self.prefix = prefix
        self.stack = AsyncExitStack()
        self.arrived: list[tuple[str, str, int]] = []

    async def node(
        self, node_id: str, *, hangs: bool = False, breaks: bool = False, **options: Any
    ) -> DistributedMediator:
        app = Mediator()

        @app.handler
        async def reserve(request: Reserve) -> str:
            self.arrived.append((node_id, request.sku, request.number))
            await asyncio.sleep(0)
            return node_id

        async def ask(request: Ask) -> str:
            if hangs:
                await asyncio.Event().wait()
            return node_id

        @app.handler
        async def work(request: Work) -> int:
            if breaks:
                raise ConnectionError("my database is down")
            await asyncio.sleep(0.02)
            return request.number

        app.handles(Ask)(ask)
        app.handles(AskMore)(ask)
        cluster = add_cluster(app, self.url, node_id=node_id, prefix=self.prefix, **options)
        return await self.stack.enter_async_context(cluster)

    async def caller(self, **options: Any) -> DistributedMediator:
        """A node that only calls the others."""
        cluster = add_cluster(Mediator(), self.url, node_id="caller", prefix=self.prefix, observe_only=True, **options)
        return await self.stack.enter_async_context(cluster)

    async def sees(self, node: DistributedMediator, *ids: str) -> None:
        await eventually(lambda: {n.node_id for n in node.get_nodes()} >= set(ids))


@pytest.fixture
async def town() -> AsyncIterator[Town]:
    town = Town("memory://routing", f"town{next(names)}")
    async with town.stack:
        yield town


async def chosen(node: DistributedMediator, request: Request[str], times: int = 6) -> set[str]:
    return {(await node.send(request)).unwrap() for _ in range(times)}


async def test_a_message_class_and_those_derived_from_it_have_their_own_strategy(town: Town) -> None:
    a = await town.node("a")
    await town.node("b")
    a.route(Ask, LocalFirst())
    assert await chosen(a, Ask()) == {"a"}
    assert await chosen(a, AskMore()) == {"a"}
    assert await chosen(a, Reserve("x")) == {"a", "b"}
    a.route(AskMore, RoundRobin())
    assert await chosen(a, AskMore()) == {"a", "b"}


async def test_a_route_that_cannot_work_is_refused_when_it_is_made(town: Town) -> None:
    a = await town.node("a")
    with pytest.raises(InvalidMessageError, match="key"):
        a.route(Ask, ConsistentHash())
    with pytest.raises(InvalidMessageError, match="key"):
        a.route(Ask, LocalFirst(Where(zone="a", then=ConsistentHash())))
    with pytest.raises(InvalidMessageError, match="the broker picks"):
        a.route(Ask, LocalFirst(Queue()))
    with pytest.raises(TypeError, match="strategy"):
        a.route(Ask, RoundRobin)  # type: ignore[arg-type]


async def test_a_message_without_a_key_fails_at_the_call_under_a_clusters_own_consistent_hash(town: Town) -> None:
    a = await town.node("a", routing=ConsistentHash())
    result = await a.send(Ask())
    assert isinstance(result, Failure)
    assert isinstance(result.error, InvalidMessageError)


async def test_all_senders_send_a_key_to_the_same_node(town: Town) -> None:
    nodes = [await town.node(name, routing=ConsistentHash()) for name in "abc"]
    for key in range(20):
        assert len({(await node.send(Reserve(str(key)))).unwrap() for node in nodes}) == 1
    assert len({node_id for node_id, _, _ in town.arrived}) == 3


async def test_requests_of_one_key_arrive_in_order_at_one_node_while_another_node_joins(town: Town) -> None:
    a = await town.node("a", routing=ConsistentHash())
    await town.node("b")
    before, after = ([NodeInfo(node_id=i) for i in ids] for ids in ("ab", "abc"))
    ring = ConsistentHash()
    keys = [str(key) for key in range(40)]
    stay = [k for k in keys if ring.select(before, Reserve(k)).node_id == ring.select(after, Reserve(k)).node_id]
    sends: list[asyncio.Task[Any]] = []
    joining = asyncio.create_task(town.node("c"))
    number = 0
    while not joining.done() or number < 50:
        number += 1
        sends += [asyncio.create_task(a.send(Reserve(key, number))) for key in keys]
        await asyncio.sleep(0)
    assert all(result.is_success for result in await asyncio.gather(*sends))
    for key in stay:
        there = [(node_id, number) for node_id, sku, number in town.arrived if sku == key]
        assert len({node_id for node_id, _ in there}) == 1
        assert [n for _, n in there] == list(range(1, number + 1))


async def test_requests_of_one_key_sent_one_after_the_other_arrive_in_order_also_if_the_key_moves(town: Town) -> None:
    a = await town.node("a", routing=ConsistentHash())
    joining = [asyncio.create_task(town.node(name)) for name in "bcd"]
    number = 0
    while not all(join.done() for join in joining) or number < 200:
        number += 1
        (await a.send(Reserve("x", number))).unwrap()
        await asyncio.sleep(0)
    await asyncio.gather(*joining)
    assert [n for _, _, n in town.arrived] == list(range(1, number + 1))


async def test_metadata_routes_by_zone_and_version(town: Town) -> None:
    a = await town.node("a", metadata={"zone": "x"})
    await town.node("b", metadata={"zone": "y", "version": "2"})
    await town.node("c", metadata={"zone": "y", "version": "1"})
    a.route(Ask, Where(version="2", then=PreferZone("y")))
    assert await chosen(a, Ask()) == {"b"}
    a.route(Ask, PreferZone("x", LoadBased()))
    assert await chosen(a, Ask()) == {"a"}
    a.route(Ask, Where(version="3"))
    result = await a.send(Ask())
    assert isinstance(result, Failure)
    assert isinstance(result.error, NoNodeAvailableError)
    assert "version='3'" in str(result.error)


async def test_a_node_that_answers_pings_and_nothing_else_is_left_out_and_tried_again(town: Town) -> None:
    a = await town.node(
        "a", request_timeout=0.3, outliers=OutlierEjection(failures=3, base=60.0, longest=60.0), routing=RoundRobin()
    )
    await town.node("b", hangs=True)
    failures = 0
    while "outlier" not in str(a.explain(Ask())):
        failures += not (await a.send(Ask())).is_success
    assert failures == 3
    assert await chosen(a, Ask(), 20) == {"a"}


@pytest.mark.parametrize(
    "strategy", [LoadBased(), LoadBased(least=True), RoundRobin(), ConsistentHash(max_load=1.25)], ids=repr
)
async def test_a_node_that_fails_at_once_attracts_no_calls_and_is_left_out_for_what_it_fails(
    town: Town, strategy: RoutingStrategy
) -> None:
    for node_id in ("a", "b", "c"):
        await town.node(node_id)
    await town.node("bad", breaks=True)
    caller = await town.caller(routing=strategy)
    await eventually(lambda: len(caller.explain(Work(0)).candidates) == 4)
    ended: list[bool] = []

    async def client(number: int) -> None:
        for each in range(50):
            result = await caller.send(Work(50 * number + each))
            ended.append(result.is_success)

    await asyncio.gather(*(client(number) for number in range(8)))
    assert ended.count(False) < 50  # round robin gave it 100
    assert ended[200:].count(False) <= 6
    assert "bad" in caller.explain(Work(0)).candidates or "is an outlier" in str(caller.explain(Work(0)))
    assert "bad" in caller.explain(Ask()).candidates


async def test_send_to_all_tells_what_each_node_answered_and_who_did_not(town: Town) -> None:
    a = await town.node("a")
    await town.node("b")
    await town.node("c", hangs=True)
    everybody = await a.send_to_all(Reserve("x"))
    assert everybody.values == {"a": "a", "b": "b", "c": "c"}
    assert everybody.is_complete
    some = await a.send_to_all(Ask(), timeout=0.1)
    assert some.values == {"a": "a", "b": "b"}
    assert list(some.silent) == ["c"]
    assert isinstance(some.silent["c"], CatgaTimeoutError)
    assert not some.is_complete


async def test_send_to_all_counts_a_handlers_failure_as_its_answer(town: Town) -> None:
    @dataclass(frozen=True)
    class Break(Request[None]):
        pass

    app = Mediator()

    @app.handler
    async def fail(request: Break) -> None:
        raise ValueError("broken")

    async with add_cluster(app, town.url, node_id="z", prefix=town.prefix) as z:
        gathered = await z.send_to_all(Break())
        result = gathered.answers["z"]
        assert isinstance(result, Failure)
        assert isinstance(result.error, HandlerError)
        assert not gathered.silent
        assert not gathered.is_complete


async def test_send_to_all_without_a_handler_anywhere_raises(town: Town) -> None:
    @dataclass(frozen=True)
    class Unheard(Request[None]):
        pass

    a = await town.node("a")
    with pytest.raises(HandlerNotFoundError):
        await a.send_to_all(Unheard())


async def test_explain_tells_where_the_next_request_goes_and_uses_up_no_turn(town: Town) -> None:
    a = await town.node("a")
    for name in "bc":
        await town.node(name)
    for strategy in (RoundRobin(), LoadBased(seed=1), ConsistentHash(), LocalFirst()):
        a.route(Reserve, strategy)
        for key in range(7):
            told = [a.explain(Reserve(str(key))).choice for _ in range(3)]
            assert told == [(await a.send(Reserve(str(key)))).unwrap()] * 3


async def test_explain_tells_who_was_left_out_and_why(town: Town) -> None:
    a = await town.node("a", metadata={"zone": "x"})
    await town.node("b", metadata={"zone": "y"})
    c = await town.node("c", metadata={"zone": "x"})
    async with add_cluster(Mediator(), town.url, node_id="d", prefix=town.prefix):
        await c.drain()
        await eventually(lambda: a.get_nodes()[2].state.value == "draining")
        a.route(Ask, Where(zone="x"))
        explanation = a.explain(Ask())
        assert explanation.candidates == ("a",)
        assert explanation.choice == "a"
        assert {out.node_id: out.reason for out in explanation.left_out} == {
            "b": "does not fit zone='x'",
            "c": "is draining",
            "d": "does not handle it",
        }
        text = str(explanation)
        assert "routing.Ask goes to a" in text
        assert "Where(zone='x', then=RoundRobin())" in text
        a.route(Ask, Where(zone="q"))
        assert "goes nowhere" in str(a.explain(Ask()))


async def test_routing_sees_the_load_that_other_nodes_report_over_nats(nats_url: str) -> None:
    town = Town(nats_url, f"routing{id(names)}")
    async with town.stack:
        a = await town.node("a", routing=LocalFirst(LoadBased()), load=lambda: 5.0)
        await town.node("b", load=lambda: 3.0)
        await town.node("c", load=lambda: 0.0)
        await town.sees(a, "a", "b", "c")
        assert {(await a.send_to_node(Ask(), name)).unwrap() for name in "bc"} == {"b", "c"}
        await eventually(lambda: "load 3.00" in str(a.explain(Ask())))
        assert "a" not in await chosen(a, Ask(), 20)
