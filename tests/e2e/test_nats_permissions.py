"""What a NATS server forbids is told with its cause and renewed when it is allowed; nothing is lost or run twice."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import nats
import pytest
from guarded import Guarded
from nodes import Ear, members, node, outgoing

from catga import DistributedMediator, Mediator, Request, add_cluster, message
from catga.abc import BackendSettings
from catga.backends import redact
from catga.backends.nats import open_backend
from catga.backends.nats.refusals import Violation
from catga.errors import ClusterError, Execution, InvalidMessageError
from catga.membership.records import Seal, encode_record
from catga.routing import Queue
from catga.testing.waiting import eventually

SUBSCRIBED = ["reply.>", "bounce.>", "inbox.>", "nodes.>", "sync", "sync.*", "queue.>"]
PUBLISHED = ["reply.>", "inbox.>", "nodes.>", "sync", "sync.*", "queue.>"]


def one_and_long(subjects: list[str]) -> list[object]:
    """The first of `subjects`, and the others where there is time."""
    return [subjects[0], *(pytest.param(subject, marks=pytest.mark.long) for subject in subjects[1:])]


@message(idempotent=True)
@dataclass(frozen=True)
class Ask(Request[int]):
    number: int


@dataclass(frozen=True)
class Once(Request[int]):
    number: int


@message(idempotent=True)
@dataclass(frozen=True)
class Draw(Request[int]):
    number: int


@message(timeout=60.0)
@dataclass(frozen=True)
class Put(Request[int]):
    data: bytes


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Guarded]:
    with Guarded(tmp_path) as own:
        yield own


class Shop:
    """Three nodes, one of which only calls, and a load of requests of every kind."""

    def __init__(self) -> None:
        self.ran: Counter[int] = Counter()
        self.nodes: list[DistributedMediator] = []
        self.failures: list[str] = []
        self.sent = 0
        self._calls: set[asyncio.Task[None]] = set()

    @property
    def caller(self) -> DistributedMediator:
        return self.nodes[-1]

    def app(self) -> Mediator:
        app = Mediator()

        @app.handler
        async def ask(request: Ask) -> int:
            return request.number

        @app.handler
        async def once(request: Once) -> int:
            self.ran[request.number] += 1
            return request.number

        @app.handler
        async def draw(request: Draw) -> int:
            return request.number

        @app.handler
        async def put(request: Put) -> int:
            return len(request.data)

        return app

    async def load(self) -> None:
        while True:
            self.sent += 1
            for request in (Ask(self.sent), Once(self.sent), Draw(self.sent)):
                call = asyncio.create_task(self._call(request))
                self._calls.add(call)
                call.add_done_callback(self._calls.discard)
            await asyncio.sleep(0.01)

    async def all_done(self) -> None:
        while self._calls:
            await asyncio.wait(self._calls)

    async def _call(self, request: Ask | Once | Draw) -> None:
        result = await self.caller.send(request)
        if not result.is_success:
            self.failures.append(f"{request}: {result}")


@asynccontextmanager
async def shop(url: str) -> AsyncIterator[Shop]:
    own = Shop()
    async with AsyncExitStack() as stack:
        for name in ("a", "b"):
            node = add_cluster(own.app(), url, node_id=name, queues=True)
            own.nodes.append(await stack.enter_async_context(node))
        caller = add_cluster(Mediator(), url, node_id="caller")
        caller.route(Draw, Queue())
        own.nodes.append(await stack.enter_async_context(caller))
        load = asyncio.create_task(own.load())
        await eventually(lambda: own.sent > 20)
        yield own
        load.cancel()
        await own.all_done()


async def is_whole(own: Shop) -> bool:
    return all(each.not_ready is None and members(each) == ["a", "b", "caller"] for each in own.nodes)


@pytest.mark.parametrize("subject", one_and_long(SUBSCRIBED))
async def test_a_subscription_that_the_server_ended_is_renewed_and_nothing_fails(subject: str, server: Guarded) -> None:
    async with shop(server.url) as own:
        server.forbid(subscribe=subject)
        await eventually(lambda: any("forbids subscribing to catga." in (n.not_ready or "") for n in own.nodes))
        server.forbid()
        await eventually(lambda: is_whole(own))
        async with node(server.url, "late") as late:  # it is heard, asked and answered
            await eventually(lambda: members(late) == ["a", "b", "caller", "late"])
            await eventually(lambda: all(members(each) == members(late) for each in own.nodes))
        sent = own.sent
        await eventually(lambda: own.sent > sent + 20)
    assert own.failures == []
    assert set(own.ran.values()) == {1}


@pytest.mark.parametrize("subject", one_and_long(PUBLISHED))
async def test_what_could_not_be_published_for_a_moment_goes_out_later(subject: str, server: Guarded) -> None:
    async with shop(server.url) as own:
        server.forbid(publish=subject)
        await asyncio.sleep(0.5)
        server.forbid()
        await eventually(lambda: is_whole(own))
        async with node(server.url, "late") as late:
            await eventually(lambda: members(late) == ["a", "b", "caller", "late"])
            await eventually(lambda: all(members(each) == members(late) for each in own.nodes))
        sent = own.sent
        await eventually(lambda: own.sent > sent + 20)
    assert own.failures == []
    assert set(own.ran.values()) == {1}


@pytest.mark.parametrize("subject", one_and_long(["reply.>", "bounce.>", "inbox.>", "nodes.>", "sync", "sync.*"]))
async def test_a_start_fails_with_the_subject_that_may_not_be_subscribed_to(
    subject: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = Guarded(tmp_path)
    server.forbid(subscribe=subject)
    with server:
        wanted = rf"forbids subscribing to catga\.{subject[:4]}.*: Permissions Violation.*; allow \"catga\.>\""
        with pytest.raises(ClusterError, match=wanted):
            await node(server.url, "a").start()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("subject", one_and_long(["reply.>", "inbox.>", "nodes.>", "sync"]))
async def test_a_start_fails_with_the_subject_that_may_not_be_published_to(subject: str, tmp_path: Path) -> None:
    server = Guarded(tmp_path)
    server.forbid(publish=subject)
    with server:
        wanted = rf"forbids publishing to catga\.{subject[:4]}.*: Permissions Violation.*; allow \"catga\.>\""
        with pytest.raises(ClusterError, match=wanted) as caught:
            await node(server.url, "a", connect_timeout=1.0).start()
    assert str(caught.value).count(redact(server.url)) == 1


async def is_refused(telling: Awaitable[None]) -> bool:
    try:
        await telling
    except ClusterError as error:
        return "forbids publishing" in str(error)
    return False


async def test_a_node_is_not_ready_until_its_announcement_is_taken(server: Guarded) -> None:
    async with node(server.url, "a") as a, node(server.url, "b") as b:
        await eventually(lambda: members(b) == ["a", "b"])
        server.forbid(publish="nodes.>")
        await eventually(lambda: is_refused(a.update(metadata={"zone": "x"})))
        for _ in range(4 * 10):  # longer than a single refusal is told
            assert "forbids publishing to catga.nodes.a" in (a.not_ready or "")
            await asyncio.sleep(0.1)
        server.forbid()
        await eventually(lambda: a.not_ready is None)
        await eventually(lambda: [n.metadata for n in b.get_nodes() if n.node_id == "a"] == [{"zone": "x"}])


async def test_a_complaint_is_logged_once(server: Guarded, caplog: pytest.LogCaptureFixture) -> None:
    async with node(server.url, "a") as a:
        server.forbid(subscribe="nodes.*")
        await eventually(lambda: a.not_ready is not None)
        tries = [record for record in caplog.records if "forbids" in record.message]
        await asyncio.sleep(1.0)
        assert len([each for each in tries if each.levelno >= logging.WARNING]) == 1


async def test_a_right_that_is_missing_for_long_is_logged_once_and_not_taken_for_a_wildcard_listener(
    server: Guarded, caplog: pytest.LogCaptureFixture
) -> None:
    """The inbox that nobody has, which a node pings now and then, has another name each time."""
    async with node(server.url, "a") as a, node(server.url, "b") as b:
        await eventually(lambda: members(b) == ["a", "b"])
        server.forbid(publish="inbox.>")
        await eventually(lambda: a.counters["refused_by_broker"] > 20)
        assert a.counters["missing_bounces"] == 0
    told = [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR and "forbids" in r.getMessage()]
    assert len([text for text in told if "canary" in text]) <= 2  # one a node


async def test_a_dead_life_of_ones_own_that_may_not_be_asked_fences_nobody(server: Guarded) -> None:
    async with node(server.url, "a") as a, node(server.url, "b") as b:
        await eventually(lambda: members(b) == ["a", "b"])
        server.forbid(publish="inbox.a.>")
        client = await nats.connect(server.url)
        dead = msgspec.structs.replace(a.current_node, incarnation=a.current_node.incarnation + 1000, sequence=0)
        await eventually(lambda: b.counters["refused_by_broker"] > 0)  # the server has read its settings
        await client.publish("catga.nodes.a", Seal(None, "catga").close(encode_record(dead)))
        before = a.counters["refused_by_broker"]
        await eventually(lambda: a.counters["refused_by_broker"] > before + 6)  # pings, once a second
        assert a.health == "healthy"
        server.forbid()
        await eventually(lambda: a.current_node.incarnation > dead.incarnation)
        await eventually(lambda: a.not_ready is None)
        await client.close()


async def test_messages_that_were_refused_are_told_by_their_tokens(server: Guarded) -> None:
    ear = Ear()
    transport = open_backend(BackendSettings(url=server.url)).transport
    await transport.start(ear)
    await transport.subscribe("catga.inbox.X.1")
    transport.publish(outgoing("catga.inbox.X.1", b"a", b"b"))
    await eventually(lambda: ear.messages == [b"a", b"b"])
    server.forbid(publish="inbox.>")
    async with asyncio.timeout(30):
        while not ear.refused:
            transport.publish(outgoing("catga.inbox.X.1", b"c", b"d"))
            await asyncio.sleep(0.01)
    subject, _, reason = ear.refused[0]
    assert subject == "catga.inbox.X.1"
    assert reason == 'Permissions Violation for Publish to "catga.inbox.X.1"'
    await transport.aclose()


async def test_a_call_that_may_not_be_published_never_ran_and_says_so(server: Guarded) -> None:
    own = Shop()
    async with add_cluster(own.app(), server.url, node_id="a"), node(server.url, "c", request_timeout=3.0) as caller:
        server.forbid(publish="inbox.>")
        await eventually(lambda: "forbids publishing to catga.inbox." in (caller.not_ready or ""))
        result = await caller.send(Once(1))
        assert not result.is_success
        assert result.error.execution is Execution.NO
    assert own.ran == {}


async def test_a_call_that_may_be_published_before_its_deadline_succeeds(server: Guarded) -> None:
    own = Shop()
    async with add_cluster(own.app(), server.url, node_id="a"), node(server.url, "c") as caller:
        server.forbid(publish="inbox.>")
        await eventually(lambda: "forbids publishing to catga.inbox." in (caller.not_ready or ""))
        waiting = asyncio.create_task(caller.send(Once(1)))
        await asyncio.sleep(0.3)
        server.forbid()
        assert (await waiting).is_success
    assert own.ran == {1: 1}


async def test_an_oversized_call_in_flight_ends_when_the_limit_is_lowered_and_the_others_go_on(server: Guarded) -> None:
    own = Shop()
    async with add_cluster(own.app(), server.url, node_id="a"), node(server.url, "c") as caller:
        assert (await caller.send(Put(bytes(100_000)))).is_success
        server.forbid(more="max_payload: 16KB")
        results = []
        async with asyncio.timeout(30):  # long before the deadline of the call
            while not results or results[-1].is_success:
                calls = [caller.send(Put(bytes(100_000))), *(caller.send(Ask(number)) for number in range(50))]
                first, *others = await asyncio.gather(*calls)
                assert all(other.is_success for other in others)
                results.append(first)
        assert isinstance(results[-1].error, InvalidMessageError)


def test_a_violation_is_read_with_its_subject_as_it_is() -> None:
    text = '\'Permissions Violation for Subscription to "catga.sync.Node-A" using queue "q" (sid "2")\''
    violation = Violation.parse(text)
    assert violation is not None
    assert violation.subject == "catga.sync.Node-A"
    assert violation.is_subscription
    assert Violation.parse("'Maximum Payload Violation'") is None
