"""What a program sent and handled, for a test to look at."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from catga.abc import Forward, Handle
from catga.cluster import Gathered
from catga.result import CatgaResult, Success
from catga.testing.waiting import eventually

__all__ = ["Record", "Recorder"]

M = TypeVar("M")


class Record(NamedTuple):
    """A message, the headers that it travelled with, and its result.

    The message and the value of the result are deep copies, made when they were passed on: what a handler or a caller
    changes later is not seen here. A part that cannot be copied, such as a lock, is the original.
    """

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
        sent = _copied(message)
        result = await forward(message, headers)
        self.sent.append(Record(sent, dict(headers), _copied_result(result)))
        return result

    async def handling(self, message: Any, headers: Mapping[str, str], handle: Handle) -> CatgaResult[Any]:
        came = _copied(message)
        result = await handle(message)
        self.handled.append(Record(came, dict(headers), _copied_result(result)))
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


def _copied(value: M) -> M:
    """A deep copy of `value`, but for the parts that cannot be copied."""
    kept: dict[int, Any] = {}
    try:
        return copy.deepcopy(value, kept)
    except Exception:  # noqa: BLE001 - whatever the class of a part raises
        kept = {id(part): part for part in _parts(value) if not _can_be_copied(part)}
    try:
        return copy.deepcopy(value, kept)
    except Exception:  # noqa: BLE001 - or the class itself
        return value


def _copied_result(result: Any) -> Any:
    """`result` with copies of its values. An error is the original: its cause and its traceback cannot be copied."""
    if result.__class__ is Success:
        return Success[Any](_copied(result.value), result.metadata)
    if result.__class__ is Gathered:
        answers = {node_id: _copied_result(answer) for node_id, answer in result.answers.items()}
        return Gathered[Any](answers, dict(result.silent))
    return result


def _can_be_copied(value: object) -> bool:
    try:
        copy.deepcopy(value)
    except Exception:  # noqa: BLE001 - whatever the class raises
        return False
    return True


def _parts(value: Any) -> Iterator[Any]:
    """What `value` holds: attributes of a message, items of a container."""
    yield from getattr(value, "__dict__", {}).values()
    for name in _slots(value.__class__):
        if hasattr(value, name):
            yield getattr(value, name)
    if issubclass(value.__class__, dict):
        yield from value.values()
    elif issubclass(value.__class__, list | tuple | set | frozenset):
        yield from value


def _slots(cls: type) -> Iterator[str]:
    for base in cls.__mro__:
        names: str | tuple[str, ...] = base.__dict__.get("__slots__", ())
        yield from (name for name in ([names] if isinstance(names, str) else names) if not name.startswith("__"))
