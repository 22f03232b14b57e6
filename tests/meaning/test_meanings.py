"""A message means the same in one process, on the own node, and on another node over each bus."""

import logging

import at_once
import circuits
import derived
import failures
import odd_failures
import pytest
import resolvers
import shapes
import threads
import values
import verbs
from failures import Ask, Asked, SoldOutError
from places import PLACES, Case, call, caller_of, told

from catga import Mediator

CASES = [
    *failures.TABLE,
    *circuits.TABLE,
    *odd_failures.TABLE,
    *derived.TABLE,
    *verbs.TABLE,
    *resolvers.TABLE,
    *values.TABLE,
    *shapes.TABLE,
    *threads.TABLE,
    *at_once.TABLE,
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_a_program_means_the_same_everywhere(case: Case, place: tuple[str, str]) -> None:
    app = Mediator(strict=place[0] == "strict")
    message = case.program(app)
    async with caller_of(app, *place) as caller:
        assert told(await call(caller, message)) == case.means


@pytest.mark.parametrize("case", [*values.CHANGES, *shapes.CHANGES], ids=lambda case: case.name)
@pytest.mark.parametrize("place", [place for place in PLACES if place != "one process"], indirect=True)
async def test_a_value_means_the_same_on_every_node(case: Case, place: tuple[str, str]) -> None:
    app = Mediator(strict=place[0] == "strict")
    message = case.program(app)
    async with caller_of(app, *place) as caller:
        assert told(await call(caller, message)) == case.means


@pytest.mark.parametrize("plain", [True, False])
async def test_a_handlers_bug_is_logged_once_with_its_traceback(
    plain: bool, place: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    app = Mediator()
    broken = _broken(app, plain=plain)
    async with caller_of(app, *place) as caller:
        assert not (await caller.send(Ask())).is_success
        assert not (await caller.publish(Asked())).is_success
    bugs = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [record.getMessage() for record in bugs] == [
        "a handler of failures.Ask raised ValueError",
        "a handler of failures.Asked raised ValueError",
    ]
    assert all(record.exc_info and record.exc_info[1] is error for record, error in zip(bugs, broken, strict=True))


async def test_an_answer_is_no_bug(place: tuple[str, str], caplog: pytest.LogCaptureFixture) -> None:
    app = Mediator()

    @app.handler
    async def ask(ask: Ask) -> int:
        raise SoldOutError("none left")

    async with caller_of(app, *place) as caller:
        assert not (await caller.send(Ask())).is_success
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def _broken(app: Mediator, *, plain: bool) -> list[Exception]:
    """Give `app` handlers with a bug. Returns what they raised."""
    raised: list[Exception] = []

    def fail() -> int:
        raised.append(ValueError("no"))
        raise raised[-1]

    if plain:
        app.handles(Ask)(lambda _: fail())
        app.handles(Asked)(lambda _: fail())
        return raised

    @app.handler
    async def ask(ask: Ask) -> int:
        return fail()

    @app.handler
    async def asked(asked: Asked) -> None:
        fail()

    return raised
