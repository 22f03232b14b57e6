"""Every promise on every backend."""

from collections.abc import Callable

import pytest

from catga.testing.contract import CONTRACT, Bed, Promise
from catga.testing.contract.membership import a_crash_is_noticed


@pytest.mark.parametrize("promise", CONTRACT, ids=lambda promise: promise.__name__)
async def test_contract(promise: Promise, make_bed: Callable[[], Bed], request: pytest.FixtureRequest) -> None:
    if promise is a_crash_is_noticed:  # no link breaks in it
        request.getfixturevalue("settled_soon")
    async with make_bed() as bed:
        await promise(bed)


def test_every_promise_is_stated() -> None:
    assert all(promise.__doc__ for promise in CONTRACT)
    assert len({promise.__name__ for promise in CONTRACT}) == len(CONTRACT)
