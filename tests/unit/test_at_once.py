"""Events whose handlers run at the same time: how they end."""

import asyncio
import sys
from dataclasses import dataclass

import pytest

from catga import Event, Failure, Mediator, Request, add_cluster, message
from catga.errors import InvalidMessageError
from catga.mediator.behaviors import DeadLetters
from catga.testing import eventually


@message(concurrent=True)
@dataclass(frozen=True)
class Arrived(Event):
    pass


class Port:
    """An application with handlers that hang until they may go."""

    def __init__(self, count: int = 2) -> None:
        self.app = Mediator()
        self.begun = 0
        self.ended = 0
        self.gate = asyncio.Event()
        for _ in range(count):
            self.app.handles(Arrived)(lambda event: self.hang())

    async def hang(self) -> None:
        self.begun += 1
        try:
            await self.gate.wait()
        finally:
            await asyncio.sleep(0.01)  # to put things in order
            self.ended += 1


def test_a_request_is_never_handled_at_the_same_time() -> None:
    with pytest.raises(InvalidMessageError, match="Ask is a request: concurrent=True is for events"):

        @message(concurrent=True)
        @dataclass(frozen=True)
        class Ask(Request[int]):
            pass


async def test_all_handlers_end_before_a_publisher_that_gives_up() -> None:
    port = Port()
    task = asyncio.create_task(port.app.publish(Arrived()))
    await eventually(lambda: port.begun == 2)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert port.ended == 2


async def test_a_handler_begins_though_its_publisher_gives_up_at_once() -> None:
    port = Port()
    task = asyncio.create_task(port.app.publish(Arrived()))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert (port.begun, port.ended) == (2, 2)


async def test_a_node_that_stops_ends_all_handlers() -> None:
    port, url = Port(), "memory://at-once-stop"
    node = add_cluster(port.app, url, node_id="a", drain_timeout=0.01)
    async with add_cluster(Mediator(), url, node_id="b") as caller, node:
        publishing = asyncio.create_task(caller.publish(Arrived()))
        await eventually(lambda: port.begun == 2)
        await node.stop()
        assert isinstance(await publishing, Failure)
        assert port.ended == 2


async def test_handlers_that_are_cancelled_leave_a_letter_each() -> None:
    letters, port = DeadLetters(), Port()
    port.app.behavior(letters)
    task = asyncio.create_task(port.app.publish(Arrived()))
    await eventually(lambda: port.begun == 2)
    task.cancel()
    await asyncio.wait([task])
    assert [letter.code for letter in await letters.list()] == ["cancelled"] * 2


async def test_the_program_ends_once_the_others_have_ended() -> None:
    port = Port()

    @port.app.handler
    async def leave(event: Arrived) -> None:
        asyncio.get_running_loop().call_soon(port.gate.set)
        sys.exit(3)

    with pytest.raises(SystemExit):
        await port.app.publish(Arrived())
    assert port.ended == 2


async def test_a_bug_is_logged_while_others_still_run(caplog: pytest.LogCaptureFixture) -> None:
    port = Port()

    @port.app.handler
    def fail(event: Arrived) -> None:
        raise ValueError("no")

    task = asyncio.create_task(port.app.publish(Arrived()))
    await eventually(lambda: "raised ValueError" in caplog.text)
    port.gate.set()
    assert isinstance(await task, Failure)
    assert len(caplog.records) == 1
