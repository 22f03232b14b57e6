"""The table hands out the same candidates until something changes that matters to routing."""

import itertools

import msgspec
import pytest

from catga.abc import Departure, Sighting
from catga.cluster.table import RoutingTable
from catga.membership import View
from catga.membership.hearing import HearingClock
from catga.node import LeftReason, NodeInfo, NodeState
from catga.routing import Stats


class World:
    def __init__(self) -> None:
        ticks = itertools.count(1.0, 0.001)

        def clock() -> float:
            return next(ticks)

        hearing = HearingClock(clock, max_gap=3.0)
        self.view = View(ttl=120.0, clock=clock, hearing=hearing, on_change=lambda _: None)
        self.table = RoutingTable(self.view, Stats(self.view.load), "me")

    def put(self, node: NodeInfo) -> NodeInfo:
        self.view.observe(Sighting(node))
        return node

    def update(self, node: NodeInfo, **fields: object) -> NodeInfo:
        return self.put(msgspec.structs.replace(node, sequence=node.sequence + 1, **fields))


@pytest.fixture
def world() -> World:
    return World()


def test_a_load_report_changes_no_candidates_and_is_seen_in_the_stats(world: World) -> None:
    node = world.put(NodeInfo(node_id="a", handles=("x",)))
    before = world.table.routes("x")
    world.update(node, load=0.75)
    after = world.table.routes("x")
    assert after.nodes is before.nodes
    assert after.services[0] is before.services[0]
    assert after.nodes.stats["a"].load == 0.75


def test_a_member_that_does_not_handle_the_type_changes_nothing_for_it(world: World) -> None:
    world.put(NodeInfo(node_id="a", handles=("x",)))
    before = world.table.routes("x").nodes
    world.put(NodeInfo(node_id="b", handles=("y",)))
    assert world.table.routes("x").nodes is before
    assert [node.node_id for node in world.table.routes("y").nodes] == ["b"]


@pytest.mark.parametrize("change", [{"metadata": {"zone": "b"}}, {"service": "other"}, {"endpoint": "http://a"}])
def test_what_routing_may_look_at_makes_new_candidates(world: World, change: dict[str, object]) -> None:
    node = world.put(NodeInfo(node_id="a", handles=("x",)))
    before = world.table.routes("x").nodes
    world.update(node, **change)
    assert world.table.routes("x").nodes is not before


def test_suspect_draining_and_departed_nodes_are_no_candidates_while_others_serve(world: World) -> None:
    for name in "abc":
        node = world.put(NodeInfo(node_id=name, handles=("x",), incarnation=1))
    world.view.suspect("a", 1)
    world.update(node, state=NodeState.DRAINING)
    assert [n.node_id for n in world.table.routes("x").nodes] == ["b"]
    world.view.observe(Departure("b", 1, LeftReason.CRASHED))
    assert [n.node_id for n in world.table.routes("x").nodes] == ["a"]  # rather a suspect than nobody


def test_the_nodes_of_a_type_come_by_service_too(world: World) -> None:
    for name, service in (("a", "mail"), ("b", "audit"), ("c", "mail")):
        world.put(NodeInfo(node_id=name, service=service, handles=("x",)))
    routes = world.table.routes("x")
    assert [[n.node_id for n in group] for group in routes.services] == [["b"], ["a", "c"]]
    world.put(NodeInfo(node_id="d", service="audit", handles=("x",)))
    assert world.table.routes("x").services[1] is routes.services[1]
