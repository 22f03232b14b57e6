"""Mistakes that can be found before the first message: `Mediator.check`."""

from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any, Literal, NamedTuple

from catga.codec import Codec
from catga.codec.losses import obstacles
from catga.errors import InvalidMessageError
from catga.mediator.annotations import label, parts, returned
from catga.mediator.registry import Registry
from catga.messages import Event, Request, is_event, is_request, response_type, wire_name
from catga.result import Failure, Success


class Problem(NamedTuple):
    """One mistake. ``name`` is the message's wire name, ``text`` says what to do."""

    kind: Literal["no handler", "duplicate name", "cannot travel", "wrong answer"]
    name: str
    text: str

    def __str__(self) -> str:
        return self.text


def check(registry: Registry, targets: Iterable[ModuleType | type]) -> list[Problem]:
    """What is wrong with the registered messages and with those of `targets`."""
    registered = list(registry.names.values())
    classes = list(dict.fromkeys([*registered, *(cls for target in targets for cls in _messages(target))]))
    return [
        *_unhandled(classes, set(registered)),
        *_duplicates(classes),
        *_cannot_travel(classes),
        *_wrong_answers(registry),
    ]


def _messages(target: ModuleType | type) -> Iterator[type]:
    if isinstance(target, type):
        yield target
        return
    for value in vars(target).values():
        if isinstance(value, type) and value.__module__ == target.__name__ and (is_request(value) or is_event(value)):
            yield value


def _unhandled(classes: Iterable[type], registered: set[type]) -> Iterator[Problem]:
    for cls in classes:
        if cls is Request or any(issubclass(other, cls) for other in registered):  # handled, or a base
            continue
        name = wire_name(cls)
        if is_request(cls):
            yield Problem("no handler", name, f"no handler for {name}: is the module that has it imported or included?")
        elif base := next((base for base in cls.__mro__ if base in registered), None):
            text = f"no handler for {name}: that of its base {wire_name(base)} hears no derived events"
            yield Problem("no handler", name, text)


def _duplicates(classes: Iterable[type]) -> Iterator[Problem]:
    owners: dict[str, type] = {}
    for cls in classes:
        name = wire_name(cls)
        if owners.setdefault(name, cls) is not cls:
            text = f"two message classes have the wire name {name!r}: {owners[name]!r} and {cls!r}"
            yield Problem("duplicate name", name, text)


def _cannot_travel(classes: Iterable[type]) -> Iterator[Problem]:
    for cls in classes:
        if cls in (Request, Event):
            continue
        name = wire_name(cls)
        try:
            Codec(cls)
        except InvalidMessageError as error:
            yield Problem("cannot travel", name, str(error))
            continue
        for kind in [cls, response_type(cls)] if is_request(cls) else [cls]:
            for text in dict.fromkeys(obstacles(kind)):
                yield Problem("cannot travel", name, f"{name} cannot travel: {text}")


def _wrong_answers(registry: Registry) -> Iterator[Problem]:
    """Type checkers see these only where a handler is registered by `handles`."""
    for cls, handler in registry.requests():
        try:
            wanted, given = response_type(cls), returned(getattr(handler, "function", handler))
        except InvalidMessageError:  # told by `_cannot_travel`
            continue
        if not _may_answer(given, wanted):
            name = wire_name(cls)
            text = f"{label(handler)} returns {_shown(given)}, but {name} is answered with {_shown(wanted)}"
            yield Problem("wrong answer", name, text)


def _may_answer(given: Any, wanted: Any) -> bool:
    """Whether a value of one type may be of the other, as far as classes tell."""
    kinds, wanted_kinds = list(parts(given)), list(parts(type(None) if wanted is None else wanted))
    if not all(isinstance(kind, type) and kind is not Any for kind in (*kinds, *wanted_kinds)):
        return True
    if any(hasattr(kind, "__await__") for kind in kinds):
        return True
    if float in wanted_kinds:
        wanted_kinds.append(int)
    wanted_kinds += (Success, Failure)
    try:
        return any(issubclass(a, b) or issubclass(b, a) for a in kinds for b in wanted_kinds)
    except TypeError:  # a protocol
        return True


def _shown(kind: Any) -> str:
    return kind.__qualname__ if isinstance(kind, type) else str(kind)
