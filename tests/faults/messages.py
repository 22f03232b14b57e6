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


@message(idempotent=True, timeout=30.0, name="faults.Slow")
class Slow(msgspec.Struct, Request[Done], frozen=True):
    """May run twice, and there is time for it."""

    id: int
    seconds: float = 5.0


@message(timeout=60.0, name="faults.Long")
class Long(msgspec.Struct, Request[Done], frozen=True):
    """Must not run twice; outlasts a split."""

    id: int
    seconds: float


@message(timeout=1.0, name="faults.Prompt")
class Prompt(msgspec.Struct, Request[Done], frozen=True):
    """Must not run twice, nor once its second is over."""

    id: int


@message(timeout=1.0, name="faults.PromptPlain")
class PromptPlain(msgspec.Struct, Request[Done], frozen=True):
    """The same with a plain handler."""

    id: int


@message(idempotent=True, timeout=30.0, name="faults.Crunch")
class Crunch(msgspec.Struct, Request[Done], frozen=True):
    """May run twice; costs CPU time."""

    id: int
    seconds: float = 0.004


@message(idempotent=True, timeout=30.0, name="faults.CrunchPlain")
class CrunchPlain(msgspec.Struct, Request[Done], frozen=True):
    """The same with a plain handler."""

    id: int
    seconds: float = 0.004


@message(timeout=30.0, name="faults.Toil")
class Toil(msgspec.Struct, Request[Done], frozen=True):
    """Must not run twice; costs CPU time."""

    id: int
    seconds: float = 0.004


@message(timeout=2.0, name="faults.Members")
class Members(msgspec.Struct, Request[list[str]], frozen=True):
    """Whom the node that is asked sees alive."""


@message(timeout=10.0, name="faults.Block")
class Block(msgspec.Struct, Request[None], frozen=True):
    """Blocks the event loop of the node."""

    seconds: float


@message(idempotent=True, timeout=10.0, name="faults.Raise")
class Raise(msgspec.Struct, Request[None], frozen=True):
    """Its handler fails with a retryable error."""

    id: int
