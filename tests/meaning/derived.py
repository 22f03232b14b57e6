"""Classes derived from others: handlers are for exactly a class, behaviors for those derived from it, too."""

from dataclasses import dataclass
from datetime import date
from typing import Any, Generic, TypeVar

import pydantic
from failures import Ask, Asked, SoldOutError
from places import Table, failure, success

from catga import Mediator, Request
from catga.abc import CallNext

T = TypeVar("T")
TABLE = Table()
means = TABLE.means


@dataclass(frozen=True)
class AskedLoudly(Asked):
    """Derived from `Asked`."""


@dataclass(frozen=True)
class AskLoudly(Ask):
    """Derived from `Ask`."""


class Most(pydantic.BaseModel, Request[list[T]], Generic[T]):
    """A generic model, which pydantic makes classes of."""

    first: T


class Latest(Most[date]):
    """Says what it asks for."""


def failing(message: Any) -> None:
    raise SoldOutError("heard")


async def refusing(message: Any, call_next: CallNext[Any, Any]) -> Any:
    raise SoldOutError("in front of it")


@means(success())
def an_events_handler_does_not_hear_derived_events(app: Mediator) -> AskedLoudly:
    app.handles(Asked)(failing)
    return AskedLoudly()


@means(success())
def an_events_handler_does_not_hear_those_of_the_base(app: Mediator) -> Asked:
    app.handles(AskedLoudly)(failing)
    return Asked()


@means(failure("meaning.sold_out", "heard"))
def one_function_may_hear_both(app: Mediator) -> AskedLoudly:
    app.handles(Asked)(failing)
    app.handles(AskedLoudly)(failing)
    return AskedLoudly()


@means(success(2))
def a_derived_request_has_a_handler_besides_that_of_its_base(app: Mediator) -> AskLoudly:
    app.handles(Ask)(lambda ask: ask.number)
    app.handles(AskLoudly)(lambda ask: 2 * ask.number)
    return AskLoudly()


@means(failure("meaning.sold_out", "in front of it"))
def a_behavior_for_a_base_stands_around_derived_events(app: Mediator) -> AskedLoudly:
    app.behavior(only=Asked)(refusing)
    app.handles(AskedLoudly)(lambda _: None)
    return AskedLoudly()


@means(failure("meaning.sold_out", "in front of it"))
def a_behavior_for_a_base_stands_around_derived_requests(app: Mediator) -> AskLoudly:
    app.behavior(only=Ask)(refusing)
    app.handles(AskLoudly)(lambda ask: ask.number)
    return AskLoudly()


@means(success([date(2024, 1, 1)]))
def a_request_may_derive_from_a_generic_model(app: Mediator) -> Latest:
    app.handles(Latest)(lambda latest: [latest.first])
    return Latest(first=date(2024, 1, 1))


@means(success([3]))
def a_request_may_be_a_generic_model_with_its_type(app: Mediator) -> Most[int]:
    app.handles(Most[int])(lambda most: [most.first])
    return Most[int](first=3)
