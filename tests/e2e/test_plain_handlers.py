"""Handlers that are plain functions run in the receive path: nothing of them stays there."""

import asyncio
import contextvars
from dataclasses import dataclass

import pytest
from behavior_bed import Join, Work, join

from catga import Failure, Mediator, Request
from catga.errors import HandlerError

__all__ = ["join"]

mark: contextvars.ContextVar[int] = contextvars.ContextVar("mark", default=0)


@dataclass(frozen=True)
class Later(Request[int]):
    """Its handler asks a future that was cancelled."""


async def test_a_cancelled_future_in_it_is_its_own_failure(join: Join) -> None:
    app = Mediator()

    @app.handler
    def later(request: Later) -> int:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        future.cancel()
        return future.result()

    @app.handler
    def work(request: Work) -> int:
        return request.number

    caller = await join(app)
    result = await caller.send(Later())
    assert isinstance(result, Failure)
    assert type(result.error) is HandlerError
    assert "CancelledError" in str(result.error)
    assert (await caller.send(Work(1))).unwrap() == 1


@pytest.mark.parametrize("join", ["memory", "nats"], indirect=True)
async def test_calls_do_not_see_what_others_left_in_their_context(join: Join) -> None:
    app = Mediator()

    @app.handler
    def work(request: Work) -> int:
        before = mark.get()
        mark.set(request.number)
        return before

    caller = await join(app)
    assert [(await caller.send(Work(number))).unwrap() for number in range(1, 4)] == [0, 0, 0]
    assert [result.unwrap() for result in await caller.send_batch([Work(number) for number in range(1, 40)])] == [
        0
    ] * 39
