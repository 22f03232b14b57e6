"""The load that a node tells is true from its first record on, and costs no messages while it does not change."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from catga import DistributedMediator, Event, Mediator, NodeInfo, add_cluster
from catga.membership.load import OwnLoad
from catga.testing import ManualClock


@dataclass(frozen=True)
class Heard(Event):
    pass


class Gauge:
    """A load that a test sets."""

    def __init__(self) -> None:
        self.load = 0.75

    def __call__(self) -> float:
        return self.load


@pytest.fixture
def gauge() -> Gauge:
    return Gauge()


@pytest.fixture
async def node(gauge: Gauge) -> AsyncIterator[DistributedMediator]:
    async with add_cluster(Mediator(), "memory://own-load", node_id="node", load=gauge) as node:
        yield node


async def test_who_joins_is_known_with_its_load(node: DistributedMediator) -> None:
    async with add_cluster(Mediator(), "memory://own-load", observe_only=True) as other, other.watch() as changes:
        assert (await anext(changes)).node.load == 0.75


async def test_a_node_knows_its_own_load_as_it_is_now(node: DistributedMediator, gauge: Gauge) -> None:
    gauge.load = 0.5
    assert [each.load for each in node.get_nodes()] == [0.5]
    assert node.current_node.load == 0.5


async def test_an_update_tells_the_load_as_it_is_now(node: DistributedMediator, gauge: Gauge) -> None:
    async with add_cluster(Mediator(), "memory://own-load", observe_only=True) as other, other.watch() as changes:
        assert (await anext(changes)).node.load == 0.75
        gauge.load = 0.7
        await node.update(metadata={"version": "2"})
        change = await anext(changes)
        assert (change.node.metadata, change.node.load) == ({"version": "2"}, 0.7)


async def test_a_load_that_changes_is_announced_long_before_the_next_heartbeat(
    node: DistributedMediator, gauge: Gauge
) -> None:
    async with add_cluster(Mediator(), "memory://own-load", observe_only=True) as other, other.watch() as changes:
        await anext(changes)
        gauge.load = 0.2
        assert (await anext(changes)).node.load == 0.2
        assert node.counters["heartbeats"] == 0


async def test_an_observer_has_no_load_to_tell(gauge: Gauge) -> None:
    async with add_cluster(Mediator(), "memory://own-load-none", observe_only=True, load=gauge) as observer:
        assert observer.get_nodes() == []
        assert observer.current_node.load == 0.75


def test_a_load_is_announced_when_it_moves_to_another_quarter_and_not_more_often_than_a_heartbeat(gauge: Gauge) -> None:
    clock = ManualClock()
    own = OwnLoad(gauge, 30.0, clock)
    record = NodeInfo(node_id="a")

    def is_told(load: float, after: float) -> bool:
        nonlocal record
        gauge.load = load
        clock.advance(after)
        record = own.put_into(record)
        if due := own.is_due(record):
            own.announced(record)
        return due

    assert [is_told(load, 1.0) for load in (0.2, 0.3, 0.4, 0.9, 0.1)] == [False, True, False, False, False]
    assert is_told(0.9, 28.0)
    assert not is_told(0.99, 60.0)
