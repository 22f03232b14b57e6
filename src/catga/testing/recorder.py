"""What a program sent and handled, for a test to look at."""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

from catga.abc import Forward, Handle
from catga.result import CatgaResult
from catga.testing.waiting import eventually

__all__ = ["Record", "Recorder"]

M = TypeVar("M")


class Record(NamedTuple):
    """A message, the headers that it travelled with, and its result."""

    message: Any
    headers: dict[str, str]
    result: Any


class Recorder:
    """An interceptor that remembers: ``mediator.use(recorder)``. One may watch several nodes.

    Attributes:
        sent: what was sent, published or broadcast, in the order of the results.
        handled: what ran, in the order of the results.
    """

    def __init__(self) -> None:
        self.sent: list[Record] = []
        self.handled: list[Record] = []

    async def sending(self, message: Any, headers: dict[str, str], forward: Forward) -> Any:
        result = await forward(message, headers)
        self.sent.append(Record(message, dict(headers), result))
        return result

    async def handling(self, message: Any, headers: Mapping[str, str], handle: Handle) -> CatgaResult[Any]:
        result = await handle(message)
        self.handled.append(Record(message, dict(headers), result))
        return result

    def sent_of(self, cls: type[M]) -> list[M]:
        """The messages of that class, or one derived from it, that were sent."""
        return [record.message for record in self.sent if isinstance(record.message, cls)]

    def handled_of(self, cls: type[M]) -> list[M]:
        """The messages of that class, or one derived from it, that were handled."""
        return [record.message for record in self.handled if isinstance(record.message, cls)]

    async def wait_for(self, cls: type[M], count: int = 1, within: float = 15.0) -> list[M]:
        """Wait until `count` messages of the class were handled. Raises AssertionError after `within` seconds."""

        def enough() -> list[M]:
            found = self.handled_of(cls)
            return found if len(found) >= count else []

        return await eventually(enough, within, what=f"{count} {cls.__qualname__} handled")

    def clear(self) -> None:
        """Forget everything."""
        self.sent.clear()
        self.handled.clear()
