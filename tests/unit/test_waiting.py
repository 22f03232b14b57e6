"""Waiting for a condition is bounded, whatever the condition does."""

import asyncio

import pytest

from catga.testing.waiting import eventually


async def test_a_condition_that_hangs_is_cancelled_when_the_time_is_up() -> None:
    cancelled: list[bool] = []

    async def hangs() -> bool:
        try:
            return await asyncio.Event().wait()
        finally:
            cancelled.append(True)

    with pytest.raises(AssertionError, match=r"not within 0\.05 s: an event; last: None, and then it did not return"):
        await eventually(hangs, 0.05, what="an event")
    assert cancelled == [True]


async def test_a_time_out_of_the_condition_itself_is_passed_on() -> None:
    async def times_out() -> bool:
        raise TimeoutError("the condition's own")

    with pytest.raises(TimeoutError, match="own"):
        await eventually(times_out)


async def test_a_condition_is_asked_until_it_comes_true() -> None:
    answers = iter([False, None, 0, "at last"])
    assert await eventually(lambda: next(answers), every=0.0) == "at last"
    later = iter([AssertionError("not yet"), True])

    async def asks() -> bool:
        answer = next(later)
        if isinstance(answer, AssertionError):
            raise answer
        return answer

    assert await eventually(asks, every=0.0)


async def test_an_error_of_the_condition_is_the_cause_also_if_it_hangs_in_the_end() -> None:
    errors = iter([AssertionError("first"), AssertionError("last words")])

    async def asks() -> bool:
        for error in errors:
            raise error
        return await asyncio.Event().wait()

    with pytest.raises(AssertionError, match=r"last words.*, and then it did not return") as raised:
        await eventually(asks, 0.1)
    assert str(raised.value.__cause__) == "last words"
