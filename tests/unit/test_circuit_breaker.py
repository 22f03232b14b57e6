"""When a circuit opens, on a clock that moves only when it is told to."""

from typing import Any

import pytest
from behavior_parts import Ask, error_of, mediator

from catga import Mediator
from catga.errors import CircuitOpenError, HandlerError
from catga.mediator.behaviors import CircuitBreaker
from catga.testing import ManualClock

WELL, DOWN = 1, 0


def broken_by(clock: ManualClock, **options: Any) -> Mediator:
    """An app whose handler fails for `DOWN`."""

    async def run(number: int) -> int:
        if number == DOWN:
            raise ConnectionError("down")
        return number

    return mediator(CircuitBreaker(clock=clock, **options), run)


async def kinds(app: Mediator, *numbers: int) -> str:
    """What became of each: w(ell), f(ailed) or r(efused)."""
    letters = {HandlerError: "f", CircuitOpenError: "r"}
    results = [await app.send(Ask(number)) for number in numbers]
    return "".join("w" if each.is_success else letters[type(error_of(each))] for each in results)


async def test_five_failures_in_a_row_open_it_by_default() -> None:
    app = broken_by(ManualClock())
    assert await kinds(app, *[DOWN] * 4, WELL, *[DOWN] * 6) == "ffffwfffffr"


async def test_a_ratio_of_failures_opens_it_though_some_calls_go_well() -> None:
    app = broken_by(ManualClock(), failure_ratio=0.5, minimum_throughput=10)
    assert await kinds(app, *[WELL, DOWN] * 5, WELL) == "wf" * 5 + "r"
    assert error_of(await app.send(Ask(WELL))).message == "behavior_parts.Ask failed 5 of 10 times within 30 s"


async def test_below_the_ratio_it_stays_closed() -> None:
    app = broken_by(ManualClock(), failure_ratio=0.5, minimum_throughput=10)
    assert await kinds(app, *[WELL, WELL, DOWN] * 20) == "wwf" * 20


async def test_fewer_calls_than_the_minimum_say_nothing() -> None:
    app = broken_by(ManualClock(), failure_ratio=0.5, minimum_throughput=10)
    assert await kinds(app, *[DOWN] * 11) == "f" * 10 + "r"


async def test_calls_before_the_window_are_forgotten() -> None:
    clock = ManualClock()
    app = broken_by(clock, failure_ratio=0.5, minimum_throughput=10, window=10.0)
    assert await kinds(app, *[DOWN] * 9) == "f" * 9
    clock.advance(10.0)
    assert await kinds(app, *[DOWN] * 9) == "f" * 9
    clock.advance(5.0)
    assert await kinds(app, DOWN, WELL) == "fr"


async def test_with_a_ratio_failures_in_a_row_count_only_if_they_are_given() -> None:
    ratio: dict[str, Any] = {"failure_ratio": 0.9, "minimum_throughput": 100}
    assert await kinds(broken_by(ManualClock(), **ratio), *[DOWN] * 20) == "f" * 20
    assert await kinds(broken_by(ManualClock(), failures=3, **ratio), *[DOWN] * 4) == "fffr"


async def test_after_the_probe_went_well_the_count_begins_anew() -> None:
    clock = ManualClock()
    app = broken_by(clock, failure_ratio=0.5, minimum_throughput=4, reset=5.0, window=60.0)
    assert await kinds(app, *[DOWN] * 5) == "ffffr"
    clock.advance(5.0)
    assert await kinds(app, DOWN, WELL) == "fr"  # the probe failed
    clock.advance(5.0)
    assert await kinds(app, WELL, DOWN, WELL, DOWN, WELL) == "wfwfr"


async def test_it_tells_when_it_is_tried_again() -> None:
    clock = ManualClock()
    app = broken_by(clock, failures=1, reset=5.0)
    await app.send(Ask(DOWN))
    clock.advance(2.0)
    assert error_of(await app.send(Ask(WELL))).details == {"retry_after": 3.0}


@pytest.mark.parametrize(
    "options",
    [
        {"failure_ratio": 0},
        {"failure_ratio": 1.1},
        {"failure_ratio": float("nan")},
        {"failure_ratio": 0.5, "minimum_throughput": 0},
        {"failure_ratio": 0.5, "window": 0},
        {"failure_ratio": 0.5, "window": float("inf")},
        {"failure_ratio": 0.5, "failures": 0},
    ],
)
def test_numbers_that_cannot_work_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        CircuitBreaker(**options)
