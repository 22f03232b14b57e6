"""Promises of section "How a request travels": who gets what, and how often."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

from catga import ConsistentHash
from catga.errors import Execution, NodeNotFoundError, OverloadedError
from catga.testing.contract.bed import Bed
from catga.testing.contract.failures import failed
from catga.testing.contract.membership import see_each_other
from catga.testing.contract.words import App, Blob, Happened, Stock, Wait, Whoami
from catga.testing.waiting import eventually


async def round_robin_takes_turns(bed: Bed) -> None:
    """Requests go to the nodes that handle them in turn, the sender included; the result names the node."""
    apps = {name: App(name) for name in "abc"}
    a, b, c = [await bed.node(name, apps[name].mediator) for name in "abc"]
    only_caller = await bed.node("caller")
    await see_each_other(a, b, c, only_caller)
    for sender in (a, only_caller):
        results = [await sender.send(Whoami()) for _ in range(9)]
        assert Counter(result.unwrap() for result in results) == {"a": 3, "b": 3, "c": 3}
        assert all(result.metadata.node_id == result.unwrap() for result in results)
        assert {result.metadata.attempts for result in results} == {1}


async def the_same_key_goes_to_the_same_node(bed: Bed) -> None:
    """With consistent hashing every sender picks the same node for a key, and all nodes get some."""
    nodes = [await bed.node(name, App(name).mediator, routing=ConsistentHash()) for name in "abc"]
    await see_each_other(*nodes)
    owners = [{sku: (await n.send(Stock(sku))).unwrap() for sku in map(str, range(60))} for n in nodes]
    assert owners[0] == owners[1] == owners[2]
    assert set(owners[0].values()) == {"a", "b", "c"}


async def few_keys_move_when_a_node_joins(bed: Bed) -> None:
    """When a fourth node joins, keys move to it and nowhere else."""
    a, b, c = [await bed.node(name, App(name).mediator, routing=ConsistentHash()) for name in "abc"]
    await see_each_other(a, b, c)
    before = {sku: (await a.send(Stock(sku))).unwrap() for sku in map(str, range(60))}
    d = await bed.node("d", App("d").mediator)
    await see_each_other(a, b, c, d)
    after = {sku: (await a.send(Stock(sku))).unwrap() for sku in map(str, range(60))}
    moved = {after[sku] for sku in before if before[sku] != after[sku]}
    assert moved == {"d"}
    assert list(after.values()).count("d") < 40


async def a_node_can_be_named(bed: Bed) -> None:
    """`send_to_node` reaches that node and no other; a stranger is `NodeNotFoundError` with who is there."""
    a, b = [await bed.node(name, App(name).mediator) for name in "ab"]
    await see_each_other(a, b)
    assert [(await a.send_to_node(Whoami(), name)).unwrap() for name in "abab"] == ["a", "b", "a", "b"]
    error = (await a.send_to_node(Whoami(), "zoe")).error  # type: ignore[union-attr]
    assert isinstance(error, NodeNotFoundError)
    assert "a, b" in error.message


async def publish_reaches_each_service_once(bed: Bed) -> None:
    """An event published goes to one node of each service that subscribes, however many nodes run."""
    mail1, mail2, audit, other = App("mail1"), App("mail2"), App("audit"), App("other", subscribe=False)
    nodes = [
        await bed.node("mail1", mail1.mediator, service="mail"),
        await bed.node("mail2", mail2.mediator, service="mail"),
        await bed.node("audit", audit.mediator, service="audit"),
        await bed.node("other", other.mediator, service="other"),
    ]
    await see_each_other(*nodes)
    for number in range(10):
        assert (await nodes[number % 4].publish(Happened(number))).is_success
    assert sorted(mail1.events + mail2.events) == list(range(10))
    assert mail1.events
    assert mail2.events
    assert sorted(audit.events) == list(range(10))
    assert other.events == []


async def a_failed_publish_tells_what_each_service_did(bed: Bed) -> None:
    """A publish that failed says NO only if no service ran the event; the details have each service's result."""
    full, audit = App("full"), App("audit")
    a = await bed.node("a")
    b = await bed.node("full", full.mediator, service="full", max_concurrency=1, max_queue=0)
    await see_each_other(a, b)
    occupying = asyncio.create_task(a.send_to_node(Wait(), "full"))
    await eventually(full.started.is_set)
    alone = failed(await a.publish(Happened(1)), OverloadedError)
    assert alone.execution is Execution.NO
    await see_each_other(a, b, await bed.node("audit", audit.mediator, service="audit"))
    error = failed(await a.publish(Happened(2)), OverloadedError)
    assert (error.execution, error.is_retryable) == (Execution.MAYBE, False)
    assert error.details["services"]["audit"] == {"ok": True}
    assert error.details["services"]["full"]["execution"] == "no"
    assert (full.events, audit.events) == ([], [2])
    full.release.set()
    assert (await occupying).is_success


async def publish_waits_for_a_service_that_comes_back(bed: Bed) -> None:
    """An event for a service whose last node left a moment ago runs once it is back, and once only."""
    a, b, mail = await bed.node("a"), await bed.node("mail", App("mail").mediator, service="mail"), App("mail")
    await see_each_other(a, b)
    await b.stop()
    await eventually(lambda: [n.node_id for n in a.get_nodes()] == ["a"])
    publishing = asyncio.create_task(a.publish(Happened(1)))
    await bed.node("mail", mail.mediator, service="mail")
    assert (await publishing).is_success
    assert mail.events == [1]


async def an_event_without_subscribers_is_no_error(bed: Bed) -> None:
    """`publish` of an event that nobody handles succeeds and does nothing."""
    a = await bed.node("a")
    assert (await a.publish(Happened())).is_success


async def broadcast_reaches_each_node_once(bed: Bed) -> None:
    """A broadcast runs on every node exactly once, the sender included; all are named as acknowledging."""
    apps = [App(name) for name in "abcd"]
    nodes = [await bed.node(app.name, app.mediator) for app in apps]
    await see_each_other(*nodes)
    for number in range(5):
        done = await nodes[number % 4].broadcast(Happened(number))
        assert (done.acknowledged, done.failed) == (("a", "b", "c", "d"), {})
    assert all(app.events == list(range(5)) for app in apps)


async def a_broadcast_is_acknowledged_without_a_handler(bed: Bed) -> None:
    """A node without a handler for the event acknowledges a broadcast all the same."""
    a, b = await bed.node("a", App("a").mediator), await bed.node("b")
    await see_each_other(a, b)
    assert (await a.broadcast(Happened())).acknowledged == ("a", "b")
    assert (await b.broadcast(Happened())).acknowledged == ("a", "b")


async def many_at_once_get_their_own_answers(bed: Bed) -> None:
    """A thousand concurrent requests each get their own answer, in the order of the batch."""
    a, b = await bed.node("a"), await bed.node("b", App("b").mediator)
    await see_each_other(a, b)
    results = await a.send_batch([Blob(b"x" * size) for size in range(1000)], concurrency=500)
    assert [result.unwrap() for result in results] == list(range(1000))
    streamed = [result.unwrap() async for result in a.send_stream([Blob(b"x" * size) for size in range(100)])]
    assert streamed == list(range(100))


async def a_drained_node_finishes_its_work(bed: Bed) -> None:
    """While a node drains, accepted work finishes and new work goes elsewhere; no request fails."""
    apps = {name: App(name) for name in "bc"}
    a = await bed.node("a")
    b, c = [await bed.node(name, app.mediator, drain_timeout=20.0) for name, app in apps.items()]
    await see_each_other(a, b, c)
    accepted = asyncio.create_task(a.send_to_node(Wait(), "b"))
    await eventually(apps["b"].started.is_set)
    leaving = asyncio.create_task(b.stop())
    answers = [(await a.send(Whoami())).unwrap() for _ in range(20)]
    await eventually(lambda: any(n.node_id == "b" and n.state.value == "draining" for n in a.get_nodes()))
    answers_after = [(await a.send(Whoami())).unwrap() for _ in range(20)]
    assert set(answers) <= {"b", "c"}
    assert set(answers_after) == {"c"}
    assert not accepted.done()
    apps["b"].release.set()
    assert (await accepted).unwrap() == "b"
    await leaving
    await eventually(lambda: [n.node_id for n in a.get_nodes()] == ["a", "c"])


async def nothing_is_lost_when_nodes_come_and_go(bed: Bed) -> None:
    """While nodes join and leave gracefully under load, every request is answered, and runs once."""
    steady = App("steady")
    a, b = await bed.node("a"), await bed.node("steady", steady.mediator)
    await see_each_other(a, b)
    passing = [App(f"p{index}") for index in range(3)]
    sent, stop = 0, asyncio.Event()

    async def load() -> None:
        nonlocal sent
        while not stop.is_set():
            sent += 1
            (await a.send(Whoami())).unwrap()

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(load())
        for app in passing:
            node = await bed.node(app.name, app.mediator)
            await eventually(lambda: app.calls["whoami"] > 5)  # noqa: B023
            await node.stop()
        stop.set()
    assert steady.calls["whoami"] + sum(app.calls["whoami"] for app in passing) == sent


PROMISES: tuple[Callable[[Bed], Awaitable[None]], ...] = (
    round_robin_takes_turns,
    the_same_key_goes_to_the_same_node,
    few_keys_move_when_a_node_joins,
    a_node_can_be_named,
    publish_reaches_each_service_once,
    a_failed_publish_tells_what_each_service_did,
    publish_waits_for_a_service_that_comes_back,
    an_event_without_subscribers_is_no_error,
    broadcast_reaches_each_node_once,
    a_broadcast_is_acknowledged_without_a_handler,
    many_at_once_get_their_own_answers,
    a_drained_node_finishes_its_work,
    nothing_is_lost_when_nodes_come_and_go,
)
