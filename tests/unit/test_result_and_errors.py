"""Results and the error tree."""

import inspect

import pytest

import catga.errors
from catga import CatgaError, CatgaResult, Failure, Success
from catga.errors import CatgaTimeoutError, Execution, HandlerNotFoundError, MissingExtraError
from catga.result import ResultMetadata
from catga.rpc.outcomes import error_of, fault_of
from catga.rpc.wire import Fault

TREE = [
    cls
    for cls in vars(catga.errors).values()
    if inspect.isclass(cls) and issubclass(cls, CatgaError) and cls.__module__ == "catga.errors"
]


def test_a_success_has_its_value() -> None:
    result = Success(3, ResultMetadata("a", 2))
    assert (result.is_success, result.unwrap(), result.unwrap_or(4)) == (True, 3, 3)
    assert (result.metadata.node_id, result.metadata.attempts) == ("a", 2)
    match result:
        case Success(value):
            assert value == 3


def test_a_failure_raises_its_error() -> None:
    error = HandlerNotFoundError("no")
    result = Failure(error)
    assert (result.is_success, result.unwrap_or(4), result.error) == (False, 4, error)
    with pytest.raises(HandlerNotFoundError) as caught:
        result.unwrap()
    assert caught.value is error


def test_the_tree_is_as_drawn() -> None:
    """Each class stands in the module's docstring, below its base."""
    drawing = (catga.errors.__doc__ or "").splitlines()
    path: list[str] = []
    drawn: dict[str, str | None] = {}
    for line in drawing:
        name = line.strip(" │├└─").split(" ")[0]
        if not name.endswith("Error") or "." in line.partition(name)[0] or line.startswith("`"):
            continue
        depth = (len(line) - len(line.lstrip(" │├└─"))) // 4 - 1
        path = [*path[:depth], name]
        drawn[name] = path[-2] if len(path) > 1 else None
    bases = {cls.__name__: next((b.__name__ for b in cls.__bases__ if issubclass(b, CatgaError)), None) for cls in TREE}
    assert drawn == bases


def test_every_error_has_a_code_of_its_own_and_a_docstring() -> None:
    assert len({cls.code for cls in TREE}) == len(TREE)
    assert all(cls.__doc__ for cls in TREE)


@pytest.mark.parametrize("cls", TREE)
def test_an_error_crosses_the_wire_as_itself(cls: type[CatgaError]) -> None:
    error = cls("text", details={"a": [1, None]})
    error.is_retryable = True
    error.execution = Execution.MAYBE
    back = error_of(fault_of(7, error))
    assert type(back) is cls
    assert (back.message, str(back), back.details.get("a")) == ("text", "text", [1, None])
    assert (back.is_retryable, back.execution, back.code) == (True, Execution.MAYBE, cls.code)


def test_an_unknown_code_is_a_plain_error_that_keeps_the_code() -> None:
    back = error_of(Fault(1, "other.app", "text", {"x": 1}, False, Execution.ANSWERED))
    assert (type(back), back.details) == (CatgaError, {"code": "other.app", "x": 1})


class Picky(CatgaError):
    code = "test.picky"

    def __init__(self, sku: str, left: int) -> None:
        super().__init__(f"{left} of {sku}", details={"sku": sku, "left": left})


def test_a_subclass_with_its_own_constructor_is_rebuilt() -> None:
    back = error_of(fault_of(1, Picky("nut", 3)))
    assert (type(back), back.message, back.details) == (Picky, "3 of nut", {"sku": "nut", "left": 3})


def test_details_that_cannot_travel_go_as_text() -> None:
    back = error_of(fault_of(1, CatgaError("x", details={"o": {1, 2}, "n": object})))
    assert set(back.details) >= {"o", "n"}


def test_errors_are_also_what_python_expects() -> None:
    assert isinstance(CatgaTimeoutError("x"), TimeoutError)
    assert isinstance(MissingExtraError("x"), ImportError)
    assert CatgaError().message == ""


@pytest.mark.parametrize("result", [Success(0), Success(1), Failure(CatgaError("x"))])
def test_a_result_is_no_condition(result: CatgaResult[int]) -> None:
    with pytest.raises(TypeError, match="is_success"):
        bool(result)
