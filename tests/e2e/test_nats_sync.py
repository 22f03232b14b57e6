"""What a member asks the others for, over NATS: whom it asks, and who answers."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from catga.abc import BackendSettings, NodeDiscovery, Observation, Sighting
from catga.backends.nats import open_backend
from catga.node import NodeInfo
from catga.testing.servers import NatsServer, free_port


@pytest.fixture
def hub_and_leaf(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """The URLs of a server and of another that is its leaf node."""
    port, hub_conf, leaf_conf = free_port(), tmp_path / "hub.conf", tmp_path / "leaf.conf"
    hub_conf.write_text(f"leafnodes {{ host: 127.0.0.1, port: {port} }}")
    leaf_conf.write_text(f'leafnodes {{ reconnect: 1, remotes: [ {{ url: "nats-leaf://127.0.0.1:{port}" }} ] }}')
    with NatsServer(args=["-c", str(hub_conf)]) as hub, NatsServer(args=["-c", str(leaf_conf)]) as leaf:
        yield hub.url, leaf.url


@asynccontextmanager
async def member(
    url: str, node_id: str, prefix: str = "sync"
) -> AsyncGenerator[tuple[NodeDiscovery, list[Observation]]]:
    """The discovery of a node that has joined, and the view it answers with."""
    view = list[Observation]()
    discovery = open_backend(BackendSettings(url=url, prefix=prefix)).discovery
    await discovery.watch(view.append, lambda: view)
    await discovery.get_nodes()
    await discovery.register(NodeInfo(node_id=node_id, incarnation=1))
    yield discovery, view
    await discovery.aclose()


async def test_a_member_that_is_alone_on_a_leaf_node_learns_what_it_missed(hub_and_leaf: tuple[str, str]) -> None:
    hub, leaf = hub_and_leaf
    missed = Sighting(NodeInfo(node_id="missed", incarnation=1))
    async with member(leaf, "x") as (x, seen), member(hub, "a") as (a, known):
        async with asyncio.timeout(30):  # until the servers have found each other
            while "a" not in names(seen):
                await a.register(NodeInfo(node_id="a", incarnation=1))
        known.append(missed)
        async with asyncio.timeout(30):
            while missed not in await x.get_nodes():
                pass


async def test_of_two_members_each_is_answered_by_the_other(nats_url: str) -> None:
    """Though each is in the group that it asks."""
    async with member(nats_url, "a", "two"), member(nats_url, "b", "two") as (b, _):
        for _ in range(50):
            assert "a" in names(await b.get_nodes())


async def test_who_picked_a_member_that_is_gone_asks_the_others(nats_url: str) -> None:
    async with member(nats_url, "a", "gone"), member(nats_url, "b", "gone") as (b, view):
        view[:] = [each for each in view if names([each]) != ["a"]]  # it knows nobody but
        view.append(Sighting(NodeInfo(node_id="gone", incarnation=1)))
        async with asyncio.timeout(30):
            while "a" not in names(await b.get_nodes()):
                pass


def names(view: list[Observation]) -> list[str]:
    return [each.node.node_id for each in view if isinstance(each, Sighting)]
