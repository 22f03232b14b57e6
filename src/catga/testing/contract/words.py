"""The messages of the contract suite, and applications that handle them."""

import asyncio
from collections import Counter
from dataclasses import dataclass

from catga import CatgaError, Event, Mediator, Request, message


@dataclass(frozen=True, slots=True)
class Whoami(Request[str]):
    """Answered with the node's name."""

    text: str = ""


@message(key="sku")
@dataclass(frozen=True, slots=True)
class Stock(Request[str]):
    """Answered with the node's name; routed by key."""

    sku: str


@message(name="contract.Reserve")
@dataclass(frozen=True, slots=True)
class Reserve(Request[int]):
    """Fails with `OutOfStock` for more than 10."""

    sku: str
    qty: int


@message(name="contract.Reserve")
@dataclass(frozen=True, slots=True)
class LooseReserve(Request[int]):
    """The same on the wire, but it takes any quantity."""

    sku: str
    qty: str | int


@dataclass(frozen=True, slots=True)
class Reserved(Request[int]):
    """Handled by nobody."""


@dataclass(frozen=True, slots=True)
class Blob(Request[int]):
    """Answered with its size."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Enlarge(Request[bytes]):
    """Answered with so many bytes."""

    size: int


@dataclass(frozen=True, slots=True)
class Wait(Request[str]):
    """Answered once `App.release` is set."""

    text: str = ""


@dataclass(frozen=True, slots=True)
class Crash(Request[None]):
    """The handler raises a ZeroDivisionError."""


@dataclass(frozen=True, slots=True)
class Happened(Event):
    """Counted by every handler."""

    number: int = 0


class OutOfStock(CatgaError):
    """An error of the application."""

    code = "contract.out_of_stock"


class App:
    """The handlers of one node, and what they saw.

    Args:
        name: what the node answers with.
        subscribe: handle `Happened` as well.
    """

    def __init__(self, name: str, *, subscribe: bool = True) -> None:
        self.name = name
        self.mediator = Mediator()
        self.calls: Counter[str] = Counter()
        self.events: list[int] = []
        self.started = asyncio.Event()
        """A `Wait` has begun."""
        self.release = asyncio.Event()
        self.cancelled = asyncio.Event()
        """A `Wait` was cancelled."""
        self._register_requests()
        self._register_failures()
        if subscribe:
            self.mediator.handles(Happened)(self._happened)

    def _register_requests(self) -> None:
        @self.mediator.handler
        async def whoami(_: Whoami) -> str:
            self.calls["whoami"] += 1
            return self.name

        @self.mediator.handler
        def stock(_: Stock) -> str:
            return self.name

        @self.mediator.handler
        async def blob(request: Blob) -> int:
            return len(request.data)

        @self.mediator.handler
        async def enlarge(request: Enlarge) -> bytes:
            return b"x" * request.size

        @self.mediator.handler
        async def wait(_: Wait) -> str:
            self.calls["wait"] += 1
            self.started.set()
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
            return self.name

        _ = (whoami, stock, blob, enlarge, wait)

    def _register_failures(self) -> None:
        @self.mediator.handler
        async def reserve(request: Reserve) -> int:
            if request.qty > 10:
                raise OutOfStock(f"only 10 of {request.sku}", details={"sku": request.sku, "left": 10})
            return request.qty

        @self.mediator.handler
        async def crash(_: Crash) -> None:
            raise ZeroDivisionError("by hand")

        _ = (reserve, crash)

    async def _happened(self, event: Happened) -> None:
        self.events.append(event.number)
