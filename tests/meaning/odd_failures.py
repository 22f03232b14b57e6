"""How handlers fail in odd ways."""

import asyncio
from collections.abc import Callable
from typing import Any
from unittest.mock import ANY

from failures import Ask, Asked, SoldOutError
from places import Table, Told, failure, success
from values import case

from catga import CatgaError, Mediator


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class Bare(CatgaError):
    code = "meaning.bare"


class Derived(SoldOutError):
    """Has the code of its base."""

    code = "meaning.derived"


def recurse() -> int:
    return recurse()


def raising(error: Callable[[], BaseException]) -> Callable[[Mediator], Any]:
    def program(app: Mediator) -> Ask:
        async def ask(ask: Ask) -> int:
            raise error()

        app.handler(ask)
        return Ask()

    return program


def raising_plainly(error: Callable[[], BaseException]) -> Callable[[Mediator], Any]:
    def program(app: Mediator) -> Ask:
        def ask(ask: Ask) -> int:
            raise error()

        app.handler(ask)
        return Ask()

    return program


def raising_for_events(error: Callable[[], BaseException]) -> Callable[[Mediator], Any]:
    def program(app: Mediator) -> Asked:
        async def asked(asked: Asked) -> None:
            raise error()

        app.handler(asked)
        return Asked()

    return program


ERRORS: list[tuple[str, Callable[[], BaseException], Told]] = [
    ("a key error", lambda: KeyError("sku"), failure("handler_error", "KeyError: 'sku'")),
    ("an error without words", ValueError, failure("handler_error", "ValueError: ")),
    ("an error of several lines", lambda: ValueError("a\nb"), failure("handler_error", "ValueError: a\nb")),
    ("an error that is no ASCII", lambda: ValueError("Grüße \0"), failure("handler_error", "ValueError: Grüße \0")),
    ("a broken pipe", lambda: BrokenPipeError(32, "no"), failure("handler_error", ANY)),
    ("an exception group", lambda: ExceptionGroup("both", [ValueError("a")]), failure("handler_error", ANY)),
    ("what asyncio raises at a time-out", TimeoutError, failure("handler_error", "TimeoutError: ")),
    ("an error whose text fails", Mute, failure("handler_error", ANY)),
    ("an error of one's own without words", Bare, failure("meaning.bare", ANY)),
    ("an error that derives from another", lambda: Derived("none"), failure("meaning.derived", "none")),
    ("an invalid state of asyncio", lambda: asyncio.InvalidStateError("x"), failure("handler_error", ANY)),
]

TABLE = Table(
    case(f"{name} {how}", make(error), means)
    for name, error, means in ERRORS
    for how, make in {
        "of an async handler": raising,
        "of a plain handler": raising_plainly,
        "of a handler of an event": raising_for_events,
    }.items()
)
means = TABLE.means


@means(failure("handler_error", ANY))
def a_stop_iteration_of_an_async_handler_is_a_handler_error(app: Mediator) -> Ask:
    return raising(StopIteration)(app)  # type: ignore[no-any-return]


@means(failure("handler_error", ANY))
def a_stop_iteration_of_a_plain_handler_is_a_handler_error(app: Mediator) -> Ask:
    return raising_plainly(StopIteration)(app)  # type: ignore[no-any-return]


@means(failure("handler_error", ANY))
def a_recursion_without_an_end_is_a_handler_error(app: Mediator) -> Ask:
    app.handles(Ask)(lambda _: recurse())
    return Ask()


@means(success(3))
def what_a_handler_catches_is_none_of_its_failures(app: Mediator) -> Ask:
    @app.handler
    async def ask(ask: Ask) -> int:
        try:
            raise ValueError("no")
        except ValueError:
            return 3

    return Ask()


@means(success())
def an_event_without_an_answer_is_a_success(app: Mediator) -> Asked:
    @app.handler
    async def asked(asked: Asked) -> Any:
        return "thrown away"

    return Asked()
