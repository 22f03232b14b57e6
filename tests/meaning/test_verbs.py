"""A Mediator of which a node exists is the way to that node."""

import asyncio
import gc
import logging
import uuid
from dataclasses import dataclass

import pytest
from failures import Ask, Asked
from places import PLACES

from catga import DistributedMediator, Event, Failure, Mediator, Request, add_cluster, current, current_cluster
from catga.errors import ClosedError, Execution, HandlerError, InvalidMessageError
from catga.testing.waiting import eventually


@pytest.fixture(params=[place for place in PLACES if place not in ("one process", "strict", "own node")])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}"
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def prefix() -> str:
    return f"t{uuid.uuid4().hex[:12]}"


def answering(number: int) -> Mediator:
    app = Mediator()

    @app.handler
    async def ask(ask: Ask) -> int:
        return number

    return app


async def test_a_request_reaches_the_node_that_has_its_handler(url: str, prefix: str) -> None:
    app = Mediator()
    async with (
        add_cluster(answering(5), url, node_id="there", prefix=prefix),
        add_cluster(app, url, node_id="here", prefix=prefix),
    ):
        result = await app.send(Ask())
        assert (result.unwrap(), result.metadata.node_id) == (5, "there")


async def test_an_event_reaches_every_service(url: str, prefix: str) -> None:
    heard: list[str] = []

    def service(name: str) -> DistributedMediator:
        app = Mediator()

        @app.handler
        async def asked(asked: Asked) -> None:
            heard.append(name)

        return add_cluster(app, url, node_id=name, service=name, prefix=prefix)

    app = Mediator()

    @app.handler
    async def ask(ask: Ask) -> int:
        (await app.publish(Asked())).unwrap()
        return 1

    async with service("billing"), service("mail"), add_cluster(app, url, node_id="shop", prefix=prefix) as shop:
        (await shop.send(Ask())).unwrap()
    assert sorted(heard) == ["billing", "mail"]


async def test_before_the_start_the_verbs_say_what_is_missing() -> None:
    app = answering(1)
    node = add_cluster(app)
    for result in (await app.send(Ask()), await app.publish(Asked())):
        assert isinstance(result.error, ClosedError)
        assert "async with" in result.error.message
    async with node:
        assert (await app.send(Ask())).unwrap() == 1


async def test_after_the_stop_the_process_is_all_there_is_and_the_log_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = answering(1)
    async with add_cluster(app, node_id="a", prefix="stopped"):
        pass
    for _ in range(3):
        assert (await app.send(Ask())).metadata.node_id == ""
        assert (await app.publish(Asked())).is_success
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert told == ["the node of this Mediator has stopped: what it sends and publishes stays in this process"]


@pytest.mark.parametrize("sender", ["own", "other"])
async def test_a_handler_that_its_node_did_not_wait_for_is_cancelled_and_loses_nothing_silently(
    url: str, prefix: str, sender: str
) -> None:
    app, told, go_on = Mediator(), asyncio.Queue[object](), asyncio.Event()

    @app.handler
    async def ask(ask: Ask) -> int:
        try:
            return await asyncio.Future()
        except asyncio.CancelledError:
            await go_on.wait()
            told.put_nowait((await app.publish(Asked())).error)
            raise

    node = add_cluster(app, url, node_id="a", prefix=prefix, drain_timeout=0.1)
    async with node, add_cluster(Mediator(), url, node_id="b", prefix=prefix) as other:
        call = asyncio.create_task({"own": node, "other": other}[sender].send(Ask()))
        await eventually(lambda: node.current_node.load > 0)
        assert await node.stop() == ("handlers were cancelled",)
        go_on.set()
        assert isinstance(await told.get(), ClosedError)
        assert (await call).error.execution is Execution.MAYBE


async def test_a_publish_while_the_node_stops_is_never_lost_silently(url: str, prefix: str) -> None:
    heard = 0
    app, other = Mediator(), Mediator()

    @other.handler
    async def asked(asked: Asked) -> None:
        nonlocal heard
        heard += 1

    results = []
    async with add_cluster(other, url, node_id="other", prefix=prefix):
        node = add_cluster(app, url, node_id="stops", prefix=prefix)

        async def publish() -> None:
            while app.has_node:
                results.append(await app.publish(Asked()))
                await asyncio.sleep(0)

        publishing = asyncio.create_task(publish())
        await node.start()
        await eventually(lambda: heard > 3)
        await node.stop()
        await publishing
    successes = sum(result.is_success for result in results)
    doubtful = sum(isinstance(result, Failure) and result.error.execution is Execution.MAYBE for result in results)
    assert 3 < successes <= heard <= successes + doubtful


async def test_a_node_that_could_not_start_is_no_way() -> None:
    app = answering(1)
    node = add_cluster(app, "nats://127.0.0.1:1", connect_timeout=0.1)
    with pytest.raises(Exception, match=r"127\.0\.0\.1:1"):
        await node.start()
    assert (await app.send(Ask())).unwrap() == 1


async def test_a_node_that_nobody_has_any_more_is_no_way() -> None:
    app = answering(1)
    add_cluster(app)
    gc.collect()
    assert (await app.send(Ask())).unwrap() == 1


async def test_of_several_nodes_the_one_that_runs_the_handler_is_the_way(url: str, prefix: str) -> None:
    app = Mediator()

    @app.handler
    async def ask(ask: Ask) -> int:
        if ask.number:
            result = await app.send(Ask(0))
            assert result.is_success, result
        return int(current_cluster().node_id)

    async with (
        add_cluster(app, url, node_id="1", prefix=prefix) as one,
        add_cluster(app, url, node_id="2", prefix=prefix) as two,
        add_cluster(Mediator(), url, node_id="3", prefix=prefix) as three,
    ):
        for caller in (one, two, three):
            assert [(await caller.send_to_node(Ask(), name)).unwrap() for name in ("1", "2")] == [1, 2]
        outside = await app.send(Ask())
        assert isinstance(outside.error, ClosedError)
        assert "2 nodes" in outside.error.message


class TestCurrent:
    async def test_in_one_process_it_is_the_mediator_whose_handler_asks(self) -> None:
        found: list[Mediator] = []
        apps = [Mediator(), Mediator()]
        for app in apps:

            @app.handler
            async def ask(ask: Ask) -> int:
                found.append(current())
                return 1

            @app.handler
            def asked(asked: Asked) -> None:
                found.append(current())

        for app in apps:
            (await app.send(Ask())).unwrap()
            (await app.publish(Asked())).unwrap()
        assert found == [apps[0], apps[0], apps[1], apps[1]]

    async def test_a_task_of_a_handler_has_its_node(self, url: str, prefix: str) -> None:
        app = Mediator()

        @app.handler
        async def ask(ask: Ask) -> int:
            async def later() -> str:
                return current_cluster().node_id

            return int(await asyncio.create_task(later()))

        async with (
            add_cluster(app, url, node_id="7", prefix=prefix),
            add_cluster(Mediator(), url, node_id="caller", prefix=prefix) as caller,
        ):
            assert (await caller.send(Ask())).unwrap() == 7

    async def test_outside_of_a_handler_several_are_refused(self) -> None:
        one, two = Mediator(), Mediator()
        with pytest.raises(ClosedError, match="mediators are in this process"):
            current()
        assert one is not two

    async def test_without_a_node_there_is_no_cluster(self) -> None:
        app = Mediator()

        @app.handler
        async def ask(ask: Ask) -> int:
            current_cluster()
            return 1

        result = await app.send(Ask())
        assert isinstance(result.error, ClosedError)


class Unrelated(Event):
    """An event."""


async def test_without_a_node_an_event_that_nobody_hears_is_a_success_as_ever() -> None:
    assert (await Mediator().publish(Unrelated())).is_success


async def test_a_node_that_is_stopped_before_its_start_is_no_way_until_it_starts() -> None:
    app = answering(1)
    node = add_cluster(app, node_id="late")
    assert await node.stop() == ()
    assert (await app.send(Ask())).metadata.node_id == ""
    async with node:
        assert (await app.send(Ask())).metadata.node_id == "late"


async def test_a_start_that_a_message_prevents_leaves_no_way() -> None:
    @dataclass(frozen=True)
    class Odd(Request[int]):
        field: complex

    app = answering(1)
    app.handles(Odd)(lambda _: 1)
    node = add_cluster(app)
    with pytest.raises(InvalidMessageError):
        await node.start()
    assert (await app.send(Ask())).unwrap() == 1


async def test_a_bugs_traceback_begins_with_the_bug() -> None:
    app = Mediator()

    @app.handler
    def ask(ask: Ask) -> int:
        raise ValueError("no")

    result = await app.send(Ask())
    assert isinstance(result.error, HandlerError)
    assert result.error.__cause__ is not None
    assert result.error.__cause__.__context__ is None
