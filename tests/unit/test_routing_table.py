"""The table hands out the same candidates until something changes that matters to routing."""

import itertools

import msgspec
import pytest

from catga.abc import Departure, Sighting
from catga.cluster.departed import MAX_NAMES, MAX_NODES, MEMORY
from catga.cluster.table import RoutingTable
from catga.membership import View
from catga.membership.hearing import HearingClock
from catga.node import LeftReason, NodeInfo, NodeState
from catga.routing import Stats


class World:
    def __init__(self) -> None:
        ticks = itertools.count(1.0, 0.001)
        self.later = 0.0

        def clock() -> float:
            return next(ticks) + self.later

        hearing = HearingClock(clock, max_gap=3.0)
        self.view = View(ttl=120.0, clock=clock, hearing=hearing, on_change=lambda event: self.table.changed(event))
        self.table = RoutingTable(self.view, Stats(self.view.load), "me", clock)

    def put(self, node: NodeInfo) -> NodeInfo:
        self.view.observe(Sighting(node))
        return node

    def leave(self, node: NodeInfo, reason: LeftReason = LeftReason.CRASHED) -> None:
        self.view.observe(Departure(node.node_id, node.incarnation, reason))

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


def test_a_service_is_remembered_for_a_while_after_its_last_node_left_though_nobody_asked_for_it_before(
    world: World,
) -> None:
    world.put(NodeInfo(node_id="a", service="audit", handles=("x",), incarnation=1))
    mail = [world.put(NodeInfo(node_id=i, service="mail", handles=("x", "y"), incarnation=1)) for i in "bc"]
    for node in mail:
        world.leave(node)
    assert world.table.services("x") == ["audit", "mail"]
    assert world.table.services("y") == ["mail"]
    assert world.table.services("z") == []
    assert list(world.table.pool_of("mail", "x")()) == []
    world.later = MEMORY + 1.0
    assert world.table.services("x") == ["audit"]
    assert world.table.services("y") == []


def test_a_service_is_remembered_while_its_last_node_drains_and_after_it_has_left(world: World) -> None:
    node = world.put(NodeInfo(node_id="a", service="mail", handles=("x",), incarnation=1))
    draining = world.update(node, state=NodeState.DRAINING)
    world.later = MEMORY + 1.0
    assert world.table.services("x") == ["mail"]
    world.leave(draining, LeftReason.DRAINED)
    assert world.table.services("x") == ["mail"]


def test_a_node_that_comes_back_without_the_handler_is_not_waited_for(world: World) -> None:
    world.leave(world.put(NodeInfo(node_id="a", service="mail", handles=("x", "y"), incarnation=1)))
    assert world.table.services("x") == ["mail"]
    world.put(NodeInfo(node_id="a", service="mail", handles=("y",), incarnation=2))
    assert world.table.services("x") == []
    assert world.table.services("y") == ["mail"]


def test_a_service_that_is_back_gives_its_new_nodes(world: World) -> None:
    world.leave(world.put(NodeInfo(node_id="a", service="mail", handles=("x",), incarnation=1)))
    pool = world.table.pool_of("mail", "x")
    world.put(NodeInfo(node_id="b", service="mail", handles=("x",), incarnation=1))
    assert [node.node_id for node in pool()] == ["b"]
    assert world.table.services("x") == ["mail"]


def test_that_a_type_was_handled_is_known_though_nobody_asked_before(world: World) -> None:
    node = world.put(NodeInfo(node_id="a", handles=("x",), incarnation=1))
    assert world.table.was_handled("x")
    world.leave(node)
    assert world.table.was_handled("x")
    assert not world.table.was_handled("y")


def test_what_is_remembered_of_nodes_that_left_is_bounded(world: World) -> None:
    names = tuple(f"name-{number}" for number in range(MAX_NAMES))
    world.leave(world.put(NodeInfo(node_id="a", service="s", handles=("x", *names), incarnation=1)))
    assert not world.table.was_handled("x")
    assert world.table.was_handled(names[0])
    for number in range(MAX_NODES):
        world.leave(world.put(NodeInfo(node_id=f"n{number}", service="t", handles=("x",), incarnation=1)))
    assert world.table.services("x") == ["t"]
