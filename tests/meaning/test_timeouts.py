"""Every verb takes a timeout of its own, which holds over that of the message."""

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from failures import Ask, Asked, Hurried, HurriedEvent
from places import caller_of

from catga import Failure, Mediator, Request, add_cluster, current
from catga.errors import CatgaTimeoutError

SHORT = 0.1
LONG = 60.0


@dataclass(frozen=True)
class Nested(Request[str]):
    pass


@pytest.fixture
def app(place: tuple[str, str]) -> Mediator:
    """Its handlers for `Ask` and `Asked` never end; those that hurry take longer than their messages give them."""
    app = Mediator(strict=place[0] == "strict")

    @app.handler
    async def ask(ask: Ask) -> int:
        return await asyncio.Future()

    @app.handler
    async def asked(asked: Asked) -> None:
        await asyncio.Future()

    @app.handler
    async def hurried(hurried: Hurried) -> int:
        await asyncio.sleep(0.3)
        return 7

    @app.handler
    async def hurried_event(event: HurriedEvent) -> None:
        await asyncio.sleep(0.3)

    return app


def is_timeout(result: Any) -> bool:
    return isinstance(result, Failure) and isinstance(result.error, CatgaTimeoutError)


async def test_a_call_ends_at_its_own_timeout(app: Mediator, place: tuple[str, str]) -> None:
    async with caller_of(app, *place) as caller:
        assert is_timeout(await caller.send(Ask(), timeout=SHORT))
        assert is_timeout(await caller.publish(Asked(), timeout=SHORT))
        assert is_timeout(await caller.publish_batch([Asked()], timeout=SHORT))
        assert [is_timeout(r) for r in await caller.send_batch([Ask(), Ask()], timeout=SHORT)] == [True, True]
        assert [is_timeout(r) async for r in caller.send_stream([Ask()], timeout=SHORT)] == [True]


async def test_a_call_may_have_more_time_than_its_message_gives(app: Mediator, place: tuple[str, str]) -> None:
    async with caller_of(app, *place) as caller:
        assert is_timeout(await caller.send(Hurried()))
        assert (await caller.send(Hurried(), timeout=LONG)).unwrap() == 7
        assert is_timeout(await caller.publish(HurriedEvent()))
        assert (await caller.publish(HurriedEvent(), timeout=LONG)).is_success


async def test_no_call_outlives_the_handler_that_makes_it(app: Mediator, place: tuple[str, str]) -> None:
    ended: asyncio.Future[type] = asyncio.get_running_loop().create_future()

    @app.handler
    async def nested(request: Nested) -> str:
        try:
            return str(await current().send(Ask(), timeout=LONG))
        except BaseException as error:
            ended.set_result(type(error))
            raise

    async with caller_of(app, *place) as caller:
        assert is_timeout(await caller.send(Nested(), timeout=SHORT))
        assert await ended is asyncio.CancelledError


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan"), True, "1"])
async def test_what_is_no_number_of_seconds_is_refused(app: Mediator, place: tuple[str, str], timeout: Any) -> None:
    async with caller_of(app, *place) as caller:
        for verb, message in ((caller.send, Ask()), (caller.publish, Asked())):
            with pytest.raises(ValueError, match="timeout must be a positive number of seconds"):
                await verb(message, timeout=timeout)
        with pytest.raises(ValueError, match="timeout must be"):
            await caller.send_batch([Ask()], timeout=timeout)
        with pytest.raises(ValueError, match="timeout must be"):
            await caller.publish_batch([Asked()], timeout=timeout)
        with pytest.raises(ValueError, match="timeout must be"):
            caller.send_stream([Ask()], timeout=timeout)


async def test_the_verbs_of_a_cluster_take_one_too() -> None:
    app = Mediator()

    @app.handler
    async def ask(ask: Ask) -> int:
        return await asyncio.Future()

    @app.handler
    async def asked(asked: Asked) -> None:
        await asyncio.Future()

    async with add_cluster(app, node_id="a", prefix="timeouts") as node:
        assert is_timeout(await node.send_to_node(Ask(), "a", timeout=SHORT))
        assert list((await node.broadcast(Asked(), timeout=SHORT)).failed) == ["a"]
        assert list((await node.send_to_all(Ask(), timeout=SHORT)).silent) == ["a"]
        for call in (
            lambda: node.send_to_node(Ask(), "a", timeout=0),
            lambda: node.broadcast(Asked(), timeout=0),
            lambda: node.send_to_all(Ask(), timeout=0),
        ):
            with pytest.raises(ValueError, match="timeout must be"):
                await call()
