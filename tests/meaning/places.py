"""The places where a program has to mean the same: one process, the own node, and another node over each bus."""

import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from catga import Failure, Mediator, Success, add_cluster
from catga.hints import annotations_of
from catga.messages import is_event
from catga.result import CatgaResult

PLACES = ("one process", "strict", "own node", "memory", "nats", "redis")


@asynccontextmanager
async def caller_of(app: Mediator, place: str, url: str) -> AsyncIterator[Mediator]:
    """The mediator from which `app` is called there.

    Args:
        url: of the broker, if the place is one.
    """
    if place in ("one process", "strict"):
        yield app
        return
    prefix = f"t{uuid.uuid4().hex[:12]}"
    url = url or f"memory://{prefix}"
    async with add_cluster(app, url, node_id="worker", prefix=prefix) as worker:
        if place == "own node":
            yield worker
            return
        async with add_cluster(Mediator(), url, node_id="caller", prefix=prefix) as caller:
            yield caller


async def call(caller: Mediator, message: Any) -> CatgaResult[Any]:
    """Send or publish `message`, whichever it is for."""
    return await (caller.publish(message) if is_event(type(message)) else caller.send(message))


class Exact:
    """Equals what is equal and of the same types all the way down."""

    def __init__(self, value: object) -> None:
        self._value, self._types = value, types_in(value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Exact) and (self._value, self._types) == (other._value, other._types)

    def __repr__(self) -> str:
        return f"{self._value!r} of {self._types}"

    __hash__ = None  # type: ignore[assignment]


def types_in(value: Any) -> Any:
    """The class of `value`, and those of its parts; a set has no order."""
    parts: Any = ()
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list | tuple | set | frozenset | deque):
        parts = value
    else:
        names = [name for base in type(value).__mro__ for name in annotations_of(base)]
        parts = [getattr(value, name) for name in names if hasattr(value, name)]
    types = [types_in(part) for part in parts]
    return (type(value).__name__, sorted(types, key=repr) if isinstance(value, set | frozenset) else types)


class Told(NamedTuple):
    """What a result says, without where it comes from."""

    kind: str
    what: object
    text: str = ""
    execution: str = ""


def told(result: CatgaResult[Any]) -> Told:
    """`result`, to be compared."""
    if isinstance(result, Success):
        return Told("success", Exact(result.value))
    assert isinstance(result, Failure)
    return Told("failure", result.error.code, result.error.message, result.error.execution.value)


def failure(code: str, text: str, execution: str = "answered") -> Told:
    """A failure that a case expects."""
    return Told("failure", code, text, execution)


def success(value: object = None) -> Told:
    """A success that a case expects."""
    return Told("success", Exact(value))


Program = Callable[[Mediator], Any]
"""Gives the mediator its handlers, and returns the message to call it with."""


class Case(NamedTuple):
    """A program, and what its call means wherever it runs."""

    program: Program
    means: Told

    @property
    def name(self) -> str:
        return self.program.__name__.replace("_", " ")


class Table(list[Case]):
    """Cases of one kind."""

    def means(self, told: Told) -> Callable[[Program], Program]:
        """Add the program as a case."""

        def add(program: Program) -> Program:
            self.append(Case(program, told))
            return program

        return add
