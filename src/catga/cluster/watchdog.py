"""Names the handler that holds the event loop, while it does.

A thread asks the loop for a sign of life twice per second. While none comes, it looks at what the loop's thread
runs. A handler whose one call is seen every time for over a second holds the loop: what was seen is its frame, so it is
never blamed for others, and no call pays for this. What keeps the interpreter's lock all the time (a regular expression
that runs away) cannot be seen.
"""

import asyncio
import functools
import inspect
import logging
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import CodeType, FrameType
from typing import Any

from catga.mediator.annotations import label
from catga.mediator.registry import Registry

logger = logging.getLogger("catga.handlers")

REST = 0.5
"""Seconds between two signs of life: each costs the loop's thread a switch, which is dear where cores are few."""
PERIOD = 0.25
"""Seconds between two looks, while none comes."""
LOOKS = 5
"""In so many looks one after the other the handler is seen: then it has held the loop for over a second."""
SILENCE = 60.0
"""Seconds until the same handler is told again."""

_watchdogs: "dict[asyncio.AbstractEventLoop, Watchdog]" = {}


class Watchdog:
    """Watches one event loop, made in its thread. Whoever has handlers adds its registry, and removes it again."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread_id = threading.get_ident()
        self.registries: list[Registry] = []
        self._lives = True  # the loop has answered
        self._seen: FrameType | None = None
        self._looks = 0
        self._told: dict[str, float] = {}
        self._ended = threading.Event()
        threading.Thread(target=self._watch, name="catga-watchdog", daemon=True).start()

    def end(self) -> None:
        """Watch no more."""
        self._ended.set()

    def _answer(self) -> None:
        self._lives = True

    def _watch(self) -> None:
        while not (self._ended.wait(REST if self._seen is None else PERIOD) or self._loop.is_closed()):
            if self._lives:
                self._lives, self._seen = False, None
                with suppress(RuntimeError):  # it was closed just now
                    self._loop.call_soon_threadsafe(self._answer)
            else:
                self._look(sys._current_frames().get(self._thread_id))  # pyright: ignore[reportPrivateUsage]
        _watchdogs.pop(self._loop, None)

    def _look(self, innermost: FrameType | None) -> None:
        frame, name = self._handler_in(innermost)
        if frame is None or frame is not self._seen:
            self._seen, self._looks = frame, 0
        self._looks += 1
        if frame is not None and innermost is not None and self._looks == LOOKS:
            self._tell(name, innermost)

    def _handler_in(self, frame: FrameType | None) -> tuple[FrameType | None, str]:
        """The innermost handler that runs, and its name."""
        handlers = [handler for registry in list(self.registries) for handler in registry.handlers()]
        names = {_code_of(handler): label(handler) for handler in handlers}
        while frame is not None and frame.f_code not in names:
            frame = frame.f_back
        return frame, "" if frame is None else names[frame.f_code]

    def _tell(self, name: str, at: FrameType) -> None:
        now = time.monotonic()
        if now - self._told.get(name, -SILENCE) < SILENCE:
            return
        self._told[name] = now
        logger.warning(
            "the handler %s has held the event loop for over a second, at %s:%d: if it blocks, make it a plain "
            "function and register it with in_thread=True",
            name,
            at.f_code.co_filename,
            at.f_lineno,
            extra={"catga_handler": name},
        )


def watch(registry: Registry) -> Callable[[], None]:
    """Watch the running event loop, whose handlers are in `registry`. Returns what ends that."""
    loop = asyncio.get_running_loop()
    watchdog = _watchdogs.get(loop)
    if watchdog is None:
        watchdog = _watchdogs[loop] = Watchdog(loop)
    watchdog.registries.append(registry)
    return lambda: _forget(loop, registry)


def _forget(loop: asyncio.AbstractEventLoop, registry: Registry) -> None:
    watchdog = _watchdogs.get(loop)
    if watchdog is None or registry not in watchdog.registries:
        return
    watchdog.registries.remove(registry)
    if not watchdog.registries:
        _watchdogs.pop(loop, None)
        watchdog.end()


def _code_of(handler: Any) -> CodeType | None:
    """The code of the function inside of decorators, as `label` names it."""
    function = inspect.unwrap(handler)
    while isinstance(function, functools.partial):
        function = inspect.unwrap(function.func)
    if not hasattr(function, "__code__"):
        function = type(function).__call__
    code: CodeType | None = getattr(function, "__code__", None)
    return code
