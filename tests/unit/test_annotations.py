"""Annotations that cannot be evaluated do no harm, as they are from Python 3.14 on: code that runs when it is read."""

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ForwardRef

import pytest

from catga import Event, Mediator, Request, message
from catga import hints as reading
from catga.errors import InvalidMessageError
from catga.keys import check_key
from catga.mediator.annotations import returned, returns_plain_value

SOURCES = [path for path in Path(reading.__file__).parent.rglob("*.py") if path.name != "hints.py"]


def deferred(**annotations: str) -> Callable[[Any], Any]:
    """Give a function or class annotations as they are since 3.14, from their texts."""

    def give(thing: Any) -> Any:
        thing.__annotate__ = annotations
        return thing

    return give


def evaluated(thing: Any, texts: Mapping[str, str], *, forward: bool) -> dict[str, Any]:
    known, found = vars(sys.modules[thing.__module__]), dict[str, Any]()
    for name, text in texts.items():
        try:
            found[name] = eval(text, dict(known))  # noqa: S307
        except NameError:
            if not forward:
                raise
            found[name] = ForwardRef(text)
    return found


def get_annotations(thing: Any, *, format: str) -> dict[str, Any]:
    """As `annotationlib` has it."""
    texts = vars(thing).get("__annotate__") if hasattr(thing, "__dict__") else None
    return inspect.get_annotations(thing) if texts is None else evaluated(thing, texts, forward=format == "FORWARDREF")


def signature(function: Any, *, follow_wrapped: bool = True, annotation_format: str = "VALUE") -> inspect.Signature:
    """As Python 3.14 has it."""
    made = inspect.signature(function, follow_wrapped=follow_wrapped)
    annotations = get_annotations(function, format=annotation_format)
    parameters = [p.replace(annotation=annotations.get(p.name, p.annotation)) for p in made.parameters.values()]
    return made.replace(parameters=parameters)


@pytest.fixture(autouse=True)
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    """What 3.14 does, where there is no such Python."""
    if sys.version_info < (3, 14):
        lib = SimpleNamespace(get_annotations=get_annotations, Format=SimpleNamespace(FORWARDREF="FORWARDREF"))
        monkeypatch.setattr(reading, "annotationlib", lib)
        monkeypatch.setattr(reading, "inspect", SimpleNamespace(signature=signature))


if sys.version_info >= (3, 14):
    from deferred_cases import Ask, Hidden, hidden_answer, hidden_message, hidden_option
else:

    @dataclass(frozen=True)
    class Ask(Request[int]):
        number: int = 1

    @deferred(ask="Ask", option="Nowhere")
    async def hidden_option(ask, option=None):  # type: ignore[no-untyped-def]
        return ask.number

    @deferred(ask="Ask", **{"return": "Nowhere"})
    async def hidden_answer(ask):  # type: ignore[no-untyped-def]
        return ask.number

    @deferred(ask="Nowhere")
    async def hidden_message(ask):  # type: ignore[no-untyped-def]
        return ask.number

    @deferred(sku="str", price="Nowhere")
    class Hidden(Event):
        sku = "tea"


@pytest.mark.parametrize("handler", [hidden_option, hidden_answer])
async def test_a_name_for_type_checkers_alone_beside_the_message_does_no_harm(handler: Any) -> None:
    app = Mediator()
    app.handler(handler)
    assert (await app.send(Ask(4))).unwrap() == 4


def test_a_message_that_only_type_checkers_know_is_told_as_that() -> None:
    with pytest.raises(InvalidMessageError, match=r"the annotation 'Nowhere' of .*hidden_message is not defined"):
        Mediator().handler(hidden_message)
    app = Mediator()
    app.handles(Ask)(hidden_message)  # where the class is said it need not be read


def test_an_answer_that_only_type_checkers_know_is_open() -> None:
    assert returned(hidden_answer) is Any
    assert not returns_plain_value(hidden_answer)


def test_a_class_with_such_a_field_may_have_a_key() -> None:
    with pytest.raises(InvalidMessageError, match="key='nothing' names no field"):
        message(key="nothing")(Hidden)
    check_key(message(key="sku")(Hidden))
    Mediator().handles(Hidden)(lambda _: None)


@dataclass(frozen=True)
class Unstable(Event):
    other: "Nowhere"  # type: ignore[name-defined]  # noqa: F821
    weight: "float"


def test_a_key_without_stable_bytes_is_found_beside_a_name_that_nobody_knows() -> None:
    with pytest.raises(InvalidMessageError, match="no stable bytes"):
        check_key(message(key="weight")(Unstable))
    check_key(message(key="other")(Unstable))  # nobody can tell before the call


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_annotations_are_read_in_one_place(path: Path) -> None:
    text = path.read_text()
    for call in ("inspect.signature", "get_type_hints", "__annotations__", "get_annotations"):
        assert call not in text
