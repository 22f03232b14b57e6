"""`current` outside of handlers, beside other threads."""

import sys
from types import FrameType
from typing import Any

import pytest

from catga import Mediator, current
from catga.errors import ClosedError


def test_another_thread_may_make_a_mediator_at_any_moment() -> None:
    """Whatever line of Python `current` has come to."""
    made: list[Mediator] = [Mediator(), Mediator()]

    def at_each_line(frame: FrameType, event: str, argument: Any) -> Any:
        sys.settrace(None)
        if len(made) < 1000:
            made.append(Mediator())
        sys.settrace(at_each_line)
        return at_each_line

    former = sys.gettrace()
    sys.settrace(at_each_line)
    try:
        with pytest.raises(ClosedError, match="mediators are in this process"):
            current()
    finally:
        sys.settrace(former)
    assert len(made) > 10
