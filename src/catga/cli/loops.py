"""The event loop of a command: uvloop where it is installed."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from catga.cli.failures import USAGE, CommandError

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` on the fastest loop there is."""
    with asyncio.Runner(loop_factory=loop_factory("auto")) as runner:
        return runner.run(main)


def loop_factory(loop: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """The factory of the event loop: "uvloop", "asyncio", or "auto": uvloop where it is installed.

    Raises:
        CommandError: uvloop is not.
    """
    if loop != "asyncio":
        try:
            import uvloop
        except ModuleNotFoundError:
            if loop == "uvloop":
                raise CommandError("uvloop is not installed: pip install 'catga[uvloop]'", USAGE) from None
        else:
            return uvloop.new_event_loop
    return asyncio.new_event_loop
