"""The tables of errors say what the classes say."""

import re
from dataclasses import dataclass
from typing import NamedTuple

import pytest
from documents import text_of

from catga import CatgaError, Failure, Mediator, Request, errors
from catga.errors import Execution

_ROW = re.compile(r"^\| `(\w+)` `(\w+)` \| ([^|]+) \| ([^|]+) \| [^|]+ \|$", re.MULTILINE)
OF_BEHAVIORS = {errors.RateLimitedError, errors.CircuitOpenError, errors.InProgressError, errors.StoreError}


class Row(NamedTuple):
    name: str
    code: str
    execution: list[str]
    is_retryable: list[str]


@dataclass(frozen=True)
class Ask(Request[int]):
    pass


ROWS = [Row(m[1], m[2], m[3].split("; "), m[4].split("; ")) for m in _ROW.finditer(text_of("docs/failures.md"))]
CLASSES = {
    each.__name__: each
    for each in vars(errors).values()
    if isinstance(each, type) and issubclass(each, CatgaError) and each.__module__ == errors.__name__
}


def test_the_tables_have_each_error_once() -> None:
    assert sorted(row.name for row in ROWS) == sorted(CLASSES)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.code)
async def test_a_row_says_what_the_class_says(row: Row) -> None:
    cls = CLASSES[row.name]
    assert row.code == cls.code
    assert row.is_retryable[0] == ("yes" if cls.is_retryable else "no")
    execution = await execution_as_refused(cls) if cls in OF_BEHAVIORS else cls.execution
    assert row.execution[0] == execution.value
    assert all(Execution(word) for word in row.execution)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.code)
def test_what_may_have_run_is_retryable_only_if_idempotent(row: Row) -> None:
    if CLASSES[row.name].execution is Execution.MAYBE and "yes" in row.is_retryable:
        assert "no, if it may have run and is not idempotent" in row.is_retryable


async def execution_as_refused(cls: type[CatgaError]) -> Execution:
    """The execution that a caller sees where a behavior raises `cls`."""
    app = Mediator()

    @app.behavior
    async def refuse(message: object, call_next: object) -> object:
        raise cls("not now")

    app.handles(Ask)(lambda request: 1)
    result = await app.send(Ask())
    assert isinstance(result, Failure)
    return result.error.execution
