"""The messages of a history. Each kind exists once for each timeout, as a timeout belongs to the message class.

A handler answers with a `proof`: which node, in which of its lives, ran which request. So a caller that gets the answer
to somebody else's request can tell.
"""

from dataclasses import dataclass, make_dataclass
from typing import Any, Literal, NamedTuple

from catga import Event, Request, message

Work = Literal["wait", "burn", "plain", "relay"]
Verb = Literal["send", "publish", "all"]
TIMEOUTS = (0.5, 2.0, 5.0, 10.0)


@dataclass(frozen=True)
class Kind:
    """One kind of call.

    Attributes:
        name: of the kind, and in the wire names of its classes.
        work: what the handler does: ``wait`` sleeps, ``burn`` is an ``async def`` that uses the CPU, ``plain`` is a
            ``def`` that does, ``relay`` calls another handler through the cluster.
        idempotent: whether it may run twice.
        verb: how it is sent: to one node, to one of each service, to all.
        routing: ``""``, ``"hash"`` or ``"queue"``.
        weight: its share of the load.
    """

    name: str
    work: Work
    idempotent: bool = False
    verb: Verb = "send"
    routing: str = ""
    weight: float = 1.0


KINDS = {
    kind.name: kind
    for kind in (
        Kind("read", "wait", idempotent=True, weight=2.0),
        Kind("think", "burn", idempotent=True, weight=1.5),
        Kind("calc", "plain", idempotent=True, weight=1.5),
        Kind("add", "wait", weight=2.0),
        Kind("book", "burn", weight=1.0),
        Kind("charge", "plain", weight=1.5),
        Kind("keyed", "wait", routing="hash"),
        Kind("queued", "plain", routing="queue"),
        Kind("fetch", "wait", idempotent=True, routing="queue", weight=0.7),
        Kind("relay", "relay", weight=0.5),
        Kind("inner", "wait", weight=0.0),  # only relays send it
        Kind("event", "wait", verb="publish", weight=1.0),
        Kind("all", "plain", verb="all", weight=0.3),
    )
}


class Proof(NamedTuple):
    """What an answer tells of the run that made it."""

    node: str
    life: int
    request: str


def proof(node: str, life: int, request: str) -> str:
    """The answer of a handler, as text."""
    return f"{node} {life} {request}"


def read_proof(value: str) -> Proof:
    """The proof in an answer."""
    node, life, request = value.split(" ", 2)
    return Proof(node, int(life), request)


def _classes() -> dict[tuple[str, float], Any]:
    return {(kind.name, timeout): _message_class(kind, timeout) for kind in KINDS.values() for timeout in TIMEOUTS}


def _message_class(kind: Kind, timeout: float) -> Any:
    """A class with the fields id (of the request), work (seconds) and key."""
    name = f"{kind.name.title()}_{timeout:g}".replace(".", "_")
    base = Event if kind.verb == "publish" else Request[str]
    fields = [("id", str), ("work", float), ("key", str)]
    bases = (base,) if base is Event else (Request,)
    cls = make_dataclass(name, fields, bases=bases, frozen=True)
    if base is not Event:
        cls.__orig_bases__ = (base,)  # as `class X(Request[str])` would have it
    cls.__module__ = __name__
    options: dict[str, Any] = {"idempotent": kind.idempotent, "timeout": timeout}
    if kind.routing == "hash":
        options["key"] = "key"
    return message(**options, name=f"history.{kind.name}.{timeout:g}".replace(".", "_"))(cls)


CLASSES = _classes()
"""(kind, timeout) → message class."""
