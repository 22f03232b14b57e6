"""A bus that splits: two nodes at a NATS hub, two at a leaf node, and the link between the servers cut."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from catga import DistributedMediator, Mediator, Request, add_cluster
from catga.node import LeftReason, NodeChangeEvent, NodeChangeType
from catga.testing.proxy import Proxy
from catga.testing.servers import NatsServer, free_port
from catga.testing.waiting import eventually

IDS = ["hub-1", "hub-2", "leaf-1", "leaf-2"]


class Where(msgspec.Struct, Request[str], frozen=True):
    pass


class Split:
    """The four nodes, what each of them saw of the others, and the link."""

    def __init__(self, link: Proxy) -> None:
        self.link = link
        self.nodes: list[DistributedMediator] = []
        self.left: list[tuple[str, NodeChangeEvent]] = []

    async def watch(self, node: DistributedMediator) -> None:
        async for event in node.watch():
            if event.type is NodeChangeType.LEFT:
                self.left.append((node.node_id, event))

    def whole(self) -> bool:
        """Whether everybody sees everybody, alive."""
        return all([n.node_id for n in node.get_nodes() if n.state.value == "alive"] == IDS for node in self.nodes)

    def noticed(self) -> bool:
        """Whether each side doubts the other, or has buried it."""
        return all(sum(n.state.value == "alive" for n in node.get_nodes()) == 2 for node in self.nodes)


def app(node_id: str) -> Mediator:
    mediator = Mediator()

    @mediator.handler
    def where(request: Where) -> str:
        return node_id

    return mediator


@pytest.fixture
async def split(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Split]:
    options: dict[str, Any] = getattr(request, "param", {})
    port = free_port()
    hub_config, leaf_config = tmp_path / "hub.conf", tmp_path / "leaf.conf"
    async with AsyncExitStack() as stack:
        link = await stack.enter_async_context(Proxy(f"nats://127.0.0.1:{port}"))
        advertised = f'advertise: "127.0.0.1:{link.port}"'  # or the leaf node would learn the way round the proxy
        hub_config.write_text(f'leafnodes {{ host: "127.0.0.1", port: {port}, {advertised} }}\n')
        hub = stack.enter_context(NatsServer(args=["-c", str(hub_config)]))
        remote = f'{{ url: "nats-leaf://127.0.0.1:{link.port}" }}'
        leaf_config.write_text(f"leafnodes {{ reconnect: 1, remotes: [ {remote} ] }}\n")
        leaf = stack.enter_context(NatsServer(args=["-c", str(leaf_config)]))
        split = Split(link)
        await eventually(lambda: link.connections > 0)
        for node_id in IDS:
            url = (hub if node_id.startswith("hub") else leaf).url
            split.nodes.append(
                await stack.enter_async_context(add_cluster(app(node_id), url, node_id=node_id, **options))
            )
        await eventually(split.whole, 60)
        watching = [asyncio.create_task(split.watch(node)) for node in split.nodes]
        yield split
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)


@pytest.mark.parametrize("seconds", [3.0, pytest.param(8.0, marks=pytest.mark.long)])
async def test_a_link_that_is_cut_for_seconds_is_nobodys_death(split: Split, seconds: float) -> None:
    incarnations = [node.current_node.incarnation for node in split.nodes]
    split.link.cut()
    await asyncio.sleep(seconds)
    await eventually(split.noticed)
    assert split.left == []
    split.link.heal()
    await eventually(split.whole, 60)
    assert split.left == []
    assert [node.current_node.incarnation for node in split.nodes] == incarnations
    assert (await split.nodes[0].send_to_node(Where(), "leaf-2")).unwrap() == "leaf-2"


@pytest.mark.long
@pytest.mark.parametrize("split", [{"ttl": 5.0, "heartbeat_interval": 1.0}], indirect=True)
async def test_halves_that_have_buried_and_forgotten_each_other_meet_again(split: Split) -> None:
    incarnations = [node.current_node.incarnation for node in split.nodes]
    split.link.cut()
    await eventually(lambda: all(len(node.get_nodes()) == 2 for node in split.nodes), 90)
    reasons = {(at, event.node.node_id): event.reason for at, event in split.left}
    assert len(reasons) == 8
    assert set(reasons.values()) <= {LeftReason.CRASHED, LeftReason.EXPIRED}
    forgotten = [node._joined().membership.view.buried for node in split.nodes]
    await eventually(lambda: all(buried(i) is None for buried in forgotten for i in IDS), 90)
    split.link.heal()
    await eventually(split.whole, 60)
    assert [node.current_node.incarnation for node in split.nodes] == incarnations
