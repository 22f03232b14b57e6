"""Promises of section "How members are known": each change exactly once, to every watcher, with its reason."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from unittest import mock

import msgspec

from catga import DistributedMediator, Event, NodeChangeEvent, NodeChangeType, NodeInfo
from catga.abc import Departure
from catga.node import LeftReason, NodeState
from catga.testing.contract.bed import Bed
from catga.testing.contract.words import App, Happened, Whoami
from catga.testing.waiting import eventually

JOINED, UPDATED, LEFT = NodeChangeType.JOINED, NodeChangeType.UPDATED, NodeChangeType.LEFT
HOUR = 3600 * 1_000_000_000


class Diary:
    """Reads a watcher as fast as it can and remembers."""

    def __init__(self) -> None:
        self.events: list[NodeChangeEvent] = []

    def of(self, node_id: str, *kinds: NodeChangeType) -> list[NodeChangeEvent]:
        """The events of one node, of some kinds or of all."""
        return [e for e in self.events if e.node.node_id == node_id and (not kinds or e.type in kinds)]

    def life(self, node_id: str) -> list[str]:
        """Joining and leaving of one node, with reasons."""
        events = self.of(node_id, JOINED, LEFT)
        return [e.type.value + (f"({e.reason.value})" if e.reason else "") for e in events]

    def fold(self) -> dict[str, NodeInfo]:
        """The members, as the events tell them."""
        return fold(self.events)


def fold(events: list[NodeChangeEvent]) -> dict[str, NodeInfo]:
    """The members that result from `events`."""
    members: dict[str, NodeInfo] = {}
    for event in events:
        if event.type is LEFT:
            members.pop(event.node.node_id, None)
        else:
            members[event.node.node_id] = event.node
    return members


@asynccontextmanager
async def diary(node: DistributedMediator) -> AsyncGenerator[Diary, None]:
    """A diary of what `node` sees."""
    kept = Diary()

    async def keep() -> None:
        async for event in node.watch():
            kept.events.append(event)

    task = asyncio.create_task(keep())
    try:
        yield kept
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def ids(node: DistributedMediator) -> list[str]:
    """Ids of the members that `node` sees."""
    return [member.node_id for member in node.get_nodes()]


async def see_each_other(*nodes: DistributedMediator) -> None:
    """Wait until each of `nodes` sees them all, alive."""
    expected = sorted(node.node_id for node in nodes)
    for node in nodes:
        await eventually(lambda: [n.node_id for n in node.get_nodes() if n.is_online] == expected)  # noqa: B023


async def everybody_sees_everybody(bed: Bed) -> None:
    """Every node sees every node, itself included, with what it registered."""
    a = await bed.node("a", App("a").mediator, service="orders", endpoint="http://a", metadata={"zone": "1"})
    b = await bed.node("b", service="mail")
    await see_each_other(a, b)
    seen = next(node for node in b.get_nodes() if node.node_id == "a")
    assert (seen.service, seen.endpoint, seen.metadata) == ("orders", "http://a", {"zone": "1"})
    assert any(name.endswith(".Whoami") for name in seen.handles)
    assert seen.incarnation == a.current_node.incarnation
    assert (seen.state, seen.is_online) == (NodeState.ALIVE, True)


async def a_started_node_is_known(bed: Bed) -> None:
    """When `start` returns, the members know the node: a request sent by one of them reaches it."""
    a = await bed.node("a")
    for index in range(5):
        await bed.node(f"b{index}", App(f"b{index}").mediator)
        assert (await a.send_to_node(Whoami(), f"b{index}")).unwrap() == f"b{index}"


async def a_late_joiner_sees_all(bed: Bed) -> None:
    """Who joins late sees, when `start` returns, everybody who is there."""
    early = [await bed.node(f"n{index}") for index in range(4)]
    late = await bed.node("late")
    assert ids(late) == ["late", "n0", "n1", "n2", "n3"]
    await see_each_other(late, *early)


async def joined_and_left_are_told_once(bed: Bed) -> None:
    """A watcher is told of each joining once, and of a graceful leaving once, as ``drained``."""
    a = await bed.node("a")
    async with diary(a) as book:
        for _ in range(2):
            b = await bed.node("b")
            await b.stop()
        await bed.node("mark")
        await eventually(lambda: book.of("mark"))
        assert book.life("a") == ["joined"]
        assert book.life("b") == ["joined", "left(drained)"] * 2
        versions = [event.version for event in book.events]
        assert versions == sorted(versions)


async def an_update_is_told(bed: Bed) -> None:
    """A handler added to a running node is known to the others, as ``updated``, and gets requests."""
    app = App("b", subscribe=False)
    a, b = await bed.node("a"), await bed.node("b", app.mediator)
    await see_each_other(a, b)
    async with diary(a) as book:
        await eventually(lambda: book.of("b"))

        @app.mediator.handler
        async def late(event: Late) -> None:
            app.events.append(1)

        await eventually(lambda: any(h.endswith("Late") for e in book.of("b", UPDATED) for h in e.node.handles))
        assert (await a.publish(Late())).is_success
        assert app.events == [1]
        assert book.life("b") == ["joined"]
        assert late is not None


class Late(msgspec.Struct, Event, frozen=True):
    """An event whose handler comes late."""


async def a_watcher_starts_with_the_snapshot(bed: Bed) -> None:
    """Each watcher first gets all members as ``joined``, however late it comes, and however many there are."""
    a, b = await bed.node("a"), await bed.node("b")
    await see_each_other(a, b)
    async with diary(a) as first, diary(a) as second:
        for book in (first, second):
            await eventually(lambda: len(book.events) >= 2)  # noqa: B023
            assert [(e.type, e.node.node_id) for e in book.events[:2]] == [(JOINED, "a"), (JOINED, "b")]
        await b.stop()
        for book in (first, second):
            await eventually(lambda: book.life("b") == ["joined", "left(drained)"])  # noqa: B023


async def a_slow_watcher_is_bounded(bed: Bed) -> None:
    """A watcher that reads late gets at most one event a node and change of life, and ends with the view."""
    a = await bed.node("a")
    watcher = a.watch()
    for index in range(6):
        b = await bed.node("b", metadata={"run": str(index)})
        if index < 5:
            await b.stop()
    await eventually(lambda: any(n.metadata == {"run": "5"} for n in a.get_nodes()))
    events = [await anext(watcher), await anext(watcher)]
    assert [(e.type, e.node.node_id) for e in events] == [(JOINED, "a"), (JOINED, "b")]
    assert events[1].node.metadata == {"run": "5"}
    await watcher.aclose()


async def watching_ends_with_the_node(bed: Bed) -> None:
    """When the node stops, its watchers end."""
    a = await bed.node("a")
    watcher = a.watch()
    await a.stop()
    async with asyncio.timeout(5):
        assert [e.node.node_id async for e in watcher] == ["a"]


async def a_crash_is_noticed(bed: Bed) -> None:
    """A node that vanishes without a word gets no more requests, and has left, once, for every watcher."""
    a, b, c = [await bed.node(name, App(name).mediator) for name in "abc"]
    await see_each_other(a, b, c)
    async with diary(a) as first, diary(c) as second:
        await eventually(lambda: first.of("b") and second.of("b"))
        await bed.crash(b)
        answers = {(await a.send(Whoami())).unwrap() for _ in range(12)}
        assert answers == {"a", "c"}
        for book in (first, second):
            await eventually(lambda: len(book.life("b")) == 2, within=30)  # noqa: B023
        await bed.node("mark")
        for book in (first, second):
            await eventually(lambda: book.of("mark"))  # noqa: B023
            assert book.life("b") == ["joined", "left(crashed)"]


async def a_restarted_node_is_a_new_life(bed: Bed) -> None:
    """After a crash the same id lives on in a newer incarnation, and nothing of its former life returns.

    A watcher is told so once: it left and joined, or, where both are news at once, it was updated.
    """
    a, b = await bed.node("a"), await bed.node("b", App("old").mediator)
    await see_each_other(a, b)
    former = b.current_node
    async with diary(a) as book:
        await eventually(lambda: book.of("b"))
        await bed.crash(b)
        again = await bed.node("b", App("new").mediator)
        assert again.current_node.incarnation > former.incarnation
        await eventually(lambda: book.of("b")[-1].node.incarnation == again.current_node.incarnation)
        before = book.of("b")
        # In between it may have been suspected: it had crashed, after all.
        told = [e.type for e in before if e.node.state is not NodeState.SUSPECT]
        assert told in ([JOINED, UPDATED], [JOINED, LEFT, JOINED])
        eye = await bed.discovery()
        await eye.discovery.register(msgspec.structs.replace(former, sequence=99))  # late, from its former life
        await eye.discovery.unregister(Departure("b", former.incarnation, LeftReason.DRAINED))
        await eye.discovery.register(NodeInfo(node_id="mark", incarnation=1))
        await eventually(lambda: book.of("mark"))
        assert book.of("b") == before
        assert (await a.send_to_node(Whoami(), "b")).unwrap() == "new"


async def the_newer_of_two_wins(bed: Bed) -> None:
    """Of two live processes with one id the newer gets every request; the older is told, loudly, and stops."""
    a, older = await bed.node("a"), App("older")
    first = await bed.node("b", older.mediator)
    await see_each_other(a, first)
    second = await bed.node("b", App("newer").mediator)
    await eventually(lambda: bed.logged("fenced"))
    for _ in range(20):
        assert (await a.send_to_node(Whoami(), "b")).unwrap() == "newer"
    assert older.calls["whoami"] == 0
    assert (await first.send(Whoami())).unwrap() == "newer"  # it may go on sending, also to who took its place
    assert len(bed.logged("fenced")) == 1
    assert ids(a) == ["a", "b"]
    await first.stop()  # its farewell must not bury the newer
    assert (await a.send_to_node(Whoami(), "b")).unwrap() == "newer"
    assert second.current_node.node_id in ids(a)


async def a_wall_clock_may_be_wrong(bed: Bed) -> None:
    """A node whose clock is an hour ahead or behind is a member as any other, and so is its next life."""
    a = await bed.node("a")
    async with diary(a) as book:
        for offset, name in ((HOUR, "fast"), (-HOUR, "slow")):
            with clock_off_by(offset):
                b = await bed.node(name, App("off").mediator)
            await see_each_other(a, b)
            assert (await a.send_to_node(Whoami(), name)).unwrap() == "off"
            await eventually(lambda: book.of(name))  # noqa: B023
            if offset > 0:
                await bed.crash(b)
            else:
                await b.stop()
            again = await bed.node(name, App("right").mediator)
            assert (await a.send_to_node(Whoami(), name)).unwrap() == "right"
            await eventually(lambda: book.fold()[name].incarnation == again.current_node.incarnation)  # noqa: B023
            await again.stop()
            await eventually(lambda: book.of(name)[-1].reason is LeftReason.DRAINED)  # noqa: B023
        assert set(book.fold()) == {"a"}


@contextmanager
def clock_off_by(nanoseconds: int) -> Generator[None, None, None]:
    """The wall clock of nodes that start meanwhile is off."""
    true = time.time_ns
    with mock.patch.object(time, "time_ns", side_effect=lambda: true() + nanoseconds):
        yield


async def fifty_join_at_once(bed: Bed) -> None:
    """Fifty nodes that register in the same moment all see each other, each ``joined`` once."""
    watching = await bed.node("watching", probe_interval=1.0)
    async with diary(watching) as book:
        names = [f"n{index:02}" for index in range(50)]
        settings: dict[str, Any] = {"probe_interval": 1.0, "connect_timeout": 60.0, "heartbeat_interval": 30.0}
        nodes = await asyncio.gather(*(bed.node(name, **settings) for name in names))
        for node in (watching, *nodes):
            await eventually(lambda: ids(node) == [*names, "watching"], within=60)  # noqa: B023
        assert all(book.life(name) == ["joined"] for name in names)


async def two_clusters_share_a_broker(bed: Bed) -> None:
    """Clusters with different prefixes see nothing of each other, though the ids are the same."""
    other = Bed(bed.url, options=bed.options)
    async with other:
        a, b = await bed.node("a", App("here").mediator), await other.node("a", App("there").mediator)
        await bed.node("b", App("here").mediator)
        await other.node("c", App("there").mediator)
        assert (ids(a), ids(b)) == (["a", "b"], ["a", "c"])
        assert {(await a.send(Whoami())).unwrap() for _ in range(6)} == {"here"}
        assert {(await b.send(Whoami())).unwrap() for _ in range(6)} == {"there"}
        assert (await b.broadcast(Happened())).acknowledged == ("a", "c")


async def foreign_announcements_are_ignored(bed: Bed) -> None:
    """Foreign or hostile data among the announcements harm nothing, and are logged once, not each time."""
    a, b = await bed.node("a"), await bed.node("b", App("b").mediator)
    await see_each_other(a, b)
    async with diary(a) as book:
        for data in FOREIGN:
            await bed.inject(data)
        c = await bed.node("c")
        await see_each_other(a, b, c)
        assert (await a.send_to_node(Whoami(), "b")).unwrap() == "b"
        assert {event.node.node_id for event in book.events} == {"a", "b", "c"}
    assert 1 <= len(bed.logged("foreign data among")) <= 3  # once a node


FOREIGN = (
    b"",
    b"\xff\xfe\x00",
    b"null",
    b"[]",
    b'{"left":',
    b'{"left":"b","incarnation":"now","reason":"drained"}',
    b'{"node_id":""}',
    b'{"node_id":"x","incarnation":-1}',
    b'{"node_id":"x","load":1e400}',
    b'{"node_id":"' + b"x" * 200 + b'"}',
    b'{"node_id":["x"],"incarnation":1}',
    b'{"node_id":"\xff"}',
    b"[" * 100_000,
    b'{"some":"other application"}',
)


PROMISES: tuple[Callable[[Bed], Awaitable[None]], ...] = (
    everybody_sees_everybody,
    a_started_node_is_known,
    a_late_joiner_sees_all,
    joined_and_left_are_told_once,
    an_update_is_told,
    a_watcher_starts_with_the_snapshot,
    a_slow_watcher_is_bounded,
    watching_ends_with_the_node,
    a_crash_is_noticed,
    a_restarted_node_is_a_new_life,
    the_newer_of_two_wins,
    a_wall_clock_may_be_wrong,
    fifty_join_at_once,
    two_clusters_share_a_broker,
    foreign_announcements_are_ignored,
)
