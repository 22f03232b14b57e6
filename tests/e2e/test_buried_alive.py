"""A node that another one has buried alive."""

import asyncio
import uuid
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest

from catga import DistributedMediator, Mediator, NodeChangeType, Request, add_cluster
from catga.abc import Departure
from catga.membership import Membership
from catga.node import LeftReason
from catga.testing.faults import inject
from catga.testing.waiting import eventually


@dataclass(frozen=True)
class Once(Request[str]):
    pass


@pytest.mark.parametrize("kind", ["memory", "nats", "redis"])
@pytest.mark.parametrize("reason", [LeftReason.CRASHED, LeftReason.EXPIRED, LeftReason.UNREACHABLE])
async def test_a_node_buried_alive_is_soon_back_in_the_same_incarnation(
    kind: str, reason: LeftReason, request: pytest.FixtureRequest
) -> None:
    url = f"memory://{uuid.uuid4().hex}" if kind == "memory" else request.getfixturevalue(f"{kind}_url")
    prefix = f"buried-{uuid.uuid4().hex[:8]}"
    async with AsyncExitStack() as stack:
        nodes = [
            await stack.enter_async_context(
                add_cluster(Mediator(), url, node_id=node_id, prefix=prefix, probe_interval=0.2)
            )
            for node_id in ("observer", "buried", "third")
        ]
        await eventually(lambda: all(len(node.get_nodes()) == 3 for node in nodes))
        observer, buried, _ = nodes
        me, changes = buried.current_node, observer.watch()
        membership(observer)._bury(Departure("buried", me.incarnation, reason, sequence=me.sequence))
        told = [await anext(changes) for _ in range(2)]  # the snapshot
        assert "buried" not in {change.node.node_id for change in told}
        async for change in changes:
            if change.node.node_id == "buried":
                break
        assert (change.type, change.node.incarnation) == (NodeChangeType.JOINED, me.incarnation)
        assert buried.current_node.sequence > me.sequence


@pytest.mark.parametrize("kind", ["memory", "nats", "redis"])
async def test_a_call_at_a_node_that_is_wrongly_said_to_be_dead_is_answered(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it is after a split, when the other side tells of its dead. No probe comes in time to clear it up."""
    url = f"memory://{uuid.uuid4().hex}" if kind == "memory" else request.getfixturevalue(f"{kind}_url")
    monkeypatch.setattr("catga.cluster.node.LEFT_GRACE", 30.0)  # a slow machine is no reason to lose the call
    app, begun, go_on = Mediator(), asyncio.Event(), asyncio.Event()

    @app.handler
    async def once(request: Once) -> str:
        begun.set()
        await go_on.wait()
        return "answer"

    prefix = f"buried-{uuid.uuid4().hex[:8]}"
    buried = add_cluster(app, url, node_id="buried", prefix=prefix, probe_interval=60.0)
    caller = add_cluster(Mediator(), url, node_id="caller", prefix=prefix, probe_interval=60.0)
    async with buried, caller:
        await eventually(lambda: len(caller.get_nodes()) == 2)
        call = asyncio.create_task(caller.send(Once()))
        await begun.wait()
        me = buried.current_node
        membership(caller)._bury(Departure("buried", me.incarnation, LeftReason.CRASHED, sequence=me.sequence))
        assert len(caller.get_nodes()) == 1
        await eventually(lambda: len(caller.get_nodes()) == 2)
        go_on.set()
        assert (await call).is_success


def membership(node: DistributedMediator) -> Membership:
    return node._joined().membership


async def test_a_member_that_is_silent_to_two_others_is_unreachable_and_stays_a_member(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Somebody listens on its inbox, so it may run: nobody buries it before its lease is over."""
    url = f"memory://{uuid.uuid4().hex}"
    async with AsyncExitStack() as stack:
        made = {node_id: add_cluster(Mediator(), url, node_id=node_id, probe_interval=0.2) for node_id in "abc"}
        silenced = inject(made["c"])
        nodes = {node_id: await stack.enter_async_context(node) for node_id, node in made.items()}
        await eventually(lambda: all(len(node.get_nodes()) == 3 for node in nodes.values()))
        unreachable: list[str] = []
        for node_id in "ab":
            client = nodes[node_id]._joined().peer.client
            monkeypatch.setattr(client, "node_unreachable", lambda gone, _, who=node_id: unreachable.append(who + gone))
        silenced.is_partitioned = True
        await eventually(lambda: {"ac", "bc"} <= set(unreachable), 60)
        assert set(unreachable) == {"ac", "bc"}
        assert all(len(nodes[node_id].get_nodes()) == 3 for node_id in "ab")
        silenced.is_partitioned = False
        await eventually(lambda: all(n.state.value == "alive" for n in nodes["a"].get_nodes()))
