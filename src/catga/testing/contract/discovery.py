"""Promises of `catga.abc.NodeDiscovery`."""

from collections.abc import Awaitable, Callable, Iterable

from catga.abc import Departure, Observation, Sighting
from catga.node import LeftReason, NodeInfo, NodeState
from catga.testing.contract.bed import Bed
from catga.testing.waiting import eventually

NODE = NodeInfo(
    node_id="b.1",
    endpoint="http://b:8000",
    service="orders",
    load=0.25,
    metadata={"zone": "ä"},
    handles=("orders.Reserve",),
    incarnation=5,
    sequence=1,
)


async def a_registration_is_heard_by_all(bed: Bed) -> None:
    """`register` gives the whole record to every watcher, the one who registers included."""
    first, second = await bed.discovery(), await bed.discovery()
    await first.discovery.register(NODE)
    for eye in (first, second):
        await eventually(lambda: NODE in records(eye.seen))  # noqa: B023


async def a_late_joiner_finds_who_is_there(bed: Bed) -> None:
    """The first `get_nodes` of a discovery that came later tells the records, with sensible ages."""
    first = await bed.discovery()
    first.mine.append(Sighting(NODE, 0.0))
    await first.discovery.register(NODE)

    late = await bed.discovery()
    assert records(late.found) == [NODE]
    assert all(0 <= o.age < 60 for o in late.found if isinstance(o, Sighting))


async def who_missed_something_learns_it_by_asking(bed: Bed) -> None:
    """`get_nodes`, called again if need be, tells a node what it has missed, and how old the rest is."""
    first, second = await bed.discovery(), await bed.discovery()
    known = [NodeInfo(node_id=f"n{i}", incarnation=1) for i in range(20)]
    for node in [*known, NODE]:
        first.mine.append(Sighting(node, 0.5))
        await first.discovery.register(node)
    second.mine += [Sighting(node, 9.0) for node in known]
    found: list[Observation] = []
    while NODE not in records(found):  # without a store, who asks may be the one who is asked
        found = list(await second.discovery.get_nodes())
    assert {node.node_id for node in records(found)} == {node.node_id for node in [*known, NODE]}
    assert all(0 <= o.age < 9 for o in found if isinstance(o, Sighting))


async def nobody_there_is_an_answer(bed: Bed) -> None:
    """The first of all finds nobody, without an error."""
    assert (await bed.discovery()).found == []


async def a_departure_is_heard_with_its_reason(bed: Bed) -> None:
    """`unregister` tells every watcher which incarnation left, up to which sequence, and why."""
    first, second = await bed.discovery(), await bed.discovery()
    await first.discovery.register(NODE)
    for reason, incarnation in ((LeftReason.DRAINED, 5), (LeftReason.CRASHED, 6)):
        end = Departure("b.1", incarnation, reason, sequence=7)
        await first.discovery.unregister(end)
        await eventually(lambda: end in second.seen)  # noqa: B023


async def who_unregistered_is_not_found(bed: Bed) -> None:
    """After `unregister` no `get_nodes` tells of the record."""
    first = await bed.discovery()
    await first.discovery.register(NODE)
    await first.discovery.unregister(Departure("b.1", 5, LeftReason.DRAINED))
    second = await bed.discovery()
    assert records(second.found) == []


async def a_former_life_cannot_unregister_the_newer(bed: Bed) -> None:
    """`unregister` of an older incarnation leaves the record of a newer one where it is."""
    first = await bed.discovery()
    newer = NodeInfo(node_id="b.1", incarnation=9)
    first.mine.append(Sighting(newer, 0.0))
    await first.discovery.register(newer)
    await first.discovery.unregister(Departure("b.1", 5, LeftReason.DRAINED))
    second = await bed.discovery()
    assert records(second.found) == [newer]


async def who_refuted_its_end_stays_registered(bed: Bed) -> None:
    """`unregister` up to a sequence removes a record up to it, and leaves one of the same incarnation beyond it."""
    first = await bed.discovery()
    refuted = NodeInfo(node_id="b.1", incarnation=5, sequence=4)
    first.mine.append(Sighting(refuted, 0.0))
    await first.discovery.register(refuted)
    await first.discovery.unregister(Departure("b.1", 5, LeftReason.CRASHED, sequence=3))
    assert records((await bed.discovery()).found) == [refuted]
    first.mine.clear()
    await first.discovery.unregister(Departure("b.1", 5, LeftReason.CRASHED, sequence=4))
    assert records((await bed.discovery()).found) == []


async def a_stale_record_does_not_replace_the_newer(bed: Bed) -> None:
    """A late `register` or `heartbeat` of an older life leaves what is stored of the newer one."""
    first = await bed.discovery()
    newer = NodeInfo(node_id="b.1", incarnation=9, sequence=3)
    first.mine.append(Sighting(newer, 0.0))
    await first.discovery.register(newer)
    for stale in (NODE, NodeInfo(node_id="b.1", incarnation=9, sequence=2)):
        for write in ("heartbeat", "register"):
            former = await bed.discovery()
            former.mine.append(Sighting(newer, 0.0))
            await getattr(former.discovery, write)(stale)
    last = await bed.discovery()
    assert records(last.found) == [newer]


async def registering_again_is_harmless(bed: Bed) -> None:
    """`register` is idempotent: the same record again changes nothing."""
    first = await bed.discovery()
    first.mine.append(Sighting(NODE, 0.0))
    for _ in range(3):
        await first.discovery.register(NODE)
    second = await bed.discovery()
    assert records(second.found) == [NODE]


async def every_state_travels(bed: Bed) -> None:
    """A draining node's record arrives as draining."""
    first, second = await bed.discovery(), await bed.discovery()
    draining = NodeInfo(node_id="b.1", incarnation=5, sequence=2, state=NodeState.DRAINING)
    await first.discovery.register(draining)
    await eventually(lambda: draining in records(second.seen))


async def awkward_ids_are_told_apart(bed: Bed) -> None:
    """Nodes with dots, spaces, stars, brackets and other scripts in their ids are registered side by side."""
    first, second = await bed.discovery(), await bed.discovery()
    nodes = [NodeInfo(node_id=i, incarnation=1) for i in ("a.b", "a", "a b", "*", ">", "ä", "名", "a=2Eb", "A", "[x]?")]
    for node in nodes:
        await first.discovery.register(node)
    await eventually(lambda: {n.node_id for n in records(second.seen)} == {n.node_id for n in nodes})


async def two_prefixes_do_not_meet(bed: Bed) -> None:
    """A watcher under another prefix hears nothing of this one, though they share the broker."""
    other = Bed(bed.url, options=bed.options)
    other.prefix = bed.prefix + "x"
    async with other:
        here, there = await bed.discovery(), await other.discovery()
        await here.discovery.register(NODE)
        await there.discovery.register(NodeInfo(node_id="mark", incarnation=1))
        await eventually(lambda: records(here.seen) and records(there.seen))
        assert [n.node_id for n in records(there.seen)] == ["mark"]
        assert records((await other.discovery()).found) in ([], [NodeInfo(node_id="mark", incarnation=1)])


async def closing_ends_the_watch(bed: Bed) -> None:
    """After `aclose` nothing more is observed; a second `aclose` does nothing."""
    first, second = await bed.discovery(), await bed.discovery()
    third = await bed.discovery()
    await second.discovery.aclose()
    await second.discovery.aclose()
    before = list(second.seen)
    await first.discovery.register(NODE)
    await eventually(lambda: third.seen)
    assert second.seen == before


def records(observations: Iterable[Observation]) -> list[NodeInfo]:
    """The nodes sighted."""
    return [o.node for o in observations if isinstance(o, Sighting)]


PROMISES: tuple[Callable[[Bed], Awaitable[None]], ...] = (
    a_registration_is_heard_by_all,
    a_late_joiner_finds_who_is_there,
    who_missed_something_learns_it_by_asking,
    nobody_there_is_an_answer,
    a_departure_is_heard_with_its_reason,
    who_unregistered_is_not_found,
    a_former_life_cannot_unregister_the_newer,
    who_refuted_its_end_stays_registered,
    a_stale_record_does_not_replace_the_newer,
    registering_again_is_harmless,
    every_state_travels,
    awkward_ids_are_told_apart,
    two_prefixes_do_not_meet,
    closing_ends_the_watch,
)
