"""What travels beside a message: the values of `context`, and nothing else."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import pytest
from places import PLACES, caller_of

from catga import Event, Mediator, Request, add_cluster, context, current, current_message
from catga.abc import Forward, Handle
from catga.mediator import MessageContext
from catga.mediator.behaviors import DeadLetters, MemoryDeadLetters
from catga.mediator.carried import CONTEXT, carried

user: ContextVar[str] = ContextVar("user", default="nobody")
BESIDE = [place for place in PLACES if place != "one process"]
"""Where a handler does not run in its sender's own context."""


@dataclass(frozen=True)
class Inner(Request[dict[str, str]]):
    pass


@dataclass(frozen=True)
class Plain(Request[dict[str, str]]):
    pass


@dataclass(frozen=True)
class Outer(Request[list[dict[str, str]]]):
    pass


@dataclass(frozen=True)
class Happened(Event):
    pass


@dataclass(frozen=True)
class WhoAmI(Request[str]):
    pass


@pytest.fixture(params=["bare", "intercepted"])
def app(request: pytest.FixtureRequest, place: tuple[str, str]) -> Mediator:
    app = Mediator(strict=place[0] == "strict")
    if request.param == "intercepted":
        app.use(MessageContext())

    @app.handler
    async def inner(request: Inner) -> dict[str, str]:
        return dict(current_message().context)

    @app.handler
    def plain(request: Plain) -> dict[str, str]:
        return dict(current_message().context)

    @app.handler
    async def outer(request: Outer) -> list[dict[str, str]]:
        sender = current()
        with context(step="outer"):
            deep = (await sender.send(Inner())).unwrap()
        return [dict(current_message().context), (await sender.send(Plain())).unwrap(), deep]

    @app.handler
    async def who(request: WhoAmI) -> str:
        return user.get()

    return app


@asynccontextmanager
async def called(app: Mediator, place: tuple[str, str]) -> AsyncIterator[Mediator]:
    async with caller_of(app, *place) as caller:
        if caller is not app and app.registry.interceptors:
            caller.use(MessageContext())
        yield caller


async def test_a_handler_reads_what_its_sender_gave(app: Mediator, place: tuple[str, str]) -> None:
    async with called(app, place) as caller:
        for request in (Inner(), Plain()):
            with context(tenant="acme", note="ä\n"):
                assert (await caller.send(request)).unwrap() == {"tenant": "acme", "note": "ä\n"}
            assert (await caller.send(request)).unwrap() == {}


async def test_what_a_handler_sends_has_the_context_of_its_message(app: Mediator, place: tuple[str, str]) -> None:
    async with called(app, place) as caller:
        with context(tenant="acme"):
            values = (await caller.send(Outer())).unwrap()
        assert values == [{"tenant": "acme"}, {"tenant": "acme"}, {"tenant": "acme", "step": "outer"}]
        assert (await caller.send(Outer())).unwrap() == [{}, {}, {"step": "outer"}]


async def test_an_inner_block_adds_to_the_outer_one(app: Mediator, place: tuple[str, str]) -> None:
    async with called(app, place) as caller:
        with context(tenant="acme", user="ann"):
            with context(user="bob"):
                assert (await caller.send(Inner())).unwrap() == {"tenant": "acme", "user": "bob"}
            assert (await caller.send(Inner())).unwrap() == {"tenant": "acme", "user": "ann"}
            with context(user=None):
                assert (await caller.send(Inner())).unwrap() == {"tenant": "acme"}


async def test_what_counts_is_where_a_call_is_awaited(app: Mediator, place: tuple[str, str]) -> None:
    async with called(app, place) as caller:
        with context(tenant="where it was made"):
            calls = [caller.send(Inner()) for _ in range(4)]
        with context(tenant="where it is awaited"):
            assert [(await call).unwrap() for call in calls] == [{"tenant": "where it is awaited"}] * 4


async def test_an_interceptor_changes_it_as_everybody_does(app: Mediator, place: tuple[str, str]) -> None:
    class Adds:
        async def sending(self, message: Any, headers: dict[str, str], forward: Forward) -> Any:
            headers[CONTEXT] = "nobody may write this"
            with context(added="yes"):
                return await forward(message, headers)

        async def handling(self, message: Any, headers: Mapping[str, str], handle: Handle) -> Any:
            assert CONTEXT not in headers
            return await handle(message)

    app.use(Adds())
    async with called(app, place) as caller:
        if caller is not app:
            caller.use(Adds())
        with context(tenant="acme"):
            assert (await caller.send(Inner())).unwrap() == {"tenant": "acme", "added": "yes"}


async def test_handlers_of_an_event_read_it(app: Mediator, place: tuple[str, str]) -> None:
    heard: list[dict[str, str]] = []

    @app.handler
    async def happened(event: Happened) -> None:
        heard.append(dict(current_message().context))

    async with called(app, place) as caller:
        with context(tenant="acme"):
            (await caller.publish(Happened())).unwrap()
    assert heard == [{"tenant": "acme"}]


async def test_a_replayed_letter_has_its_context_again(place: tuple[str, str]) -> None:
    app, heard = Mediator(strict=place[0] == "strict"), list[dict[str, str]]()
    letters = DeadLetters(MemoryDeadLetters())
    app.behavior(letters)

    @app.handler
    async def happened(event: Happened) -> None:
        heard.append(dict(current_message().context))
        if len(heard) == 1:
            raise ValueError

    async with called(app, place) as caller:
        with context(tenant="acme"):
            assert not (await caller.publish(Happened())).is_success
    (letter,) = await letters.list()
    assert (await letters.replay(app, letter.id)).is_success
    assert heard == [{"tenant": "acme"}] * 2


@pytest.mark.parametrize("place", BESIDE, indirect=True)
async def test_other_variables_of_the_sender_stay_with_it(app: Mediator, place: tuple[str, str]) -> None:
    async with called(app, place) as caller:
        token = user.set("ann")
        try:
            assert (await caller.send(WhoAmI())).unwrap() == "nobody"
        finally:
            user.reset(token)


async def test_a_node_that_is_started_within_a_block_does_not_take_it_over(
    app: Mediator, place: tuple[str, str]
) -> None:
    with context(tenant="of the start"):
        opened = called(app, place)
        caller = await opened.__aenter__()
    try:
        assert (await caller.send(Inner())).unwrap() == {}
    finally:
        await opened.__aexit__(None, None, None)


@pytest.mark.parametrize(
    ("values", "error", "text"),
    [
        ({"tenant": 5}, TypeError, "tenant='5'"),
        ({"tenant": b"acme"}, TypeError, "text"),
        ({"tenant": "x" * 4091}, ValueError, "4096"),
        ({"a": "ä" * 2048}, ValueError, "4097 bytes"),
        ({"tenant": "\ud800"}, ValueError, "surrogates"),
    ],
)
def test_what_cannot_travel_is_refused_where_it_is_given(values: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text), context(**values):
        pass
    assert current_message().context == {}


async def test_one_object_may_be_entered_by_several_tasks_and_again() -> None:
    acme = context(tenant="acme")

    async def enter() -> dict[str, str]:
        with acme, context(user="ann"), acme:
            await asyncio.sleep(0)
            return dict(current_message().context)

    assert await asyncio.gather(*(enter() for _ in range(3))) == [{"tenant": "acme", "user": "ann"}] * 3
    with context(self="any name"):
        assert current_message().context == {"self": "any name"}
    assert current_message().context == {}


def test_all_blocks_together_have_one_limit() -> None:
    with context(a="x" * 4000), pytest.raises(ValueError, match="4096"), context(b="x" * 100):
        pass


@pytest.mark.parametrize(
    "header",
    ["", "{", "5", "null", '{"a": 5}', '["a"]', '{"a": "\\ud800"}', '{"a": "' + "x" * 5000 + '"}', "[" * 5000],
)
async def test_a_header_that_nobody_can_read_is_no_context(header: str) -> None:
    app = Mediator()

    @app.handler
    async def inner(request: Inner) -> dict[str, str]:
        return {**current_message().context, "passed on": str(carried.get())}

    prefix = f"t{uuid.uuid4().hex}"
    async with (
        add_cluster(app, node_id="a", prefix=prefix),
        add_cluster(Mediator(), node_id="b", prefix=prefix) as caller,
    ):
        token = carried.set({CONTEXT: header})
        try:
            assert (await caller.send(Inner())).unwrap() == {"passed on": "None"}
        finally:
            carried.reset(token)
