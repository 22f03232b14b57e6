"""What the fault suite sends."""

import msgspec

from catga import Request, message


class Done(msgspec.Struct, frozen=True):
    id: int
    node_id: str


@message(idempotent=True, timeout=10.0, name="faults.Work")
class Work(msgspec.Struct, Request[Done], frozen=True):
    """May run twice."""

    id: int
    seconds: float = 0.005


@message(timeout=10.0, name="faults.Order")
class Order(msgspec.Struct, Request[Done], frozen=True):
    """Must not run twice."""

    id: int
    seconds: float = 0.005


@message(timeout=10.0, name="faults.Block")
class Block(msgspec.Struct, Request[None], frozen=True):
    """Blocks the event loop of the node."""

    seconds: float


@message(idempotent=True, timeout=10.0, name="faults.Raise")
class Raise(msgspec.Struct, Request[None], frozen=True):
    """Its handler fails with a retryable error."""

    id: int
