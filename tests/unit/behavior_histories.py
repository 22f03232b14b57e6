"""Histories of messages through behaviors: calls with cancellations, deadlines and faults of stores, each from a seed.

They run in an event loop whose time is virtual: it moves on when nothing is left to do, so that hours take no time and
the same seeds give the same history.
"""

import asyncio
import logging
import random
import selectors
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from history_plan import (
    CANCELLED,
    ERROR,
    EVENTS,
    HANDLERS,
    REQUESTS,
    VALUE,
    Ask,
    AtOnce,
    Brief,
    Call,
    Happened,
    How,
    Look,
    Plain,
    Run,
    calling,
    raised,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from catga import Failure, Mediator, Success
from catga.mediator import settling
from catga.mediator.behaviors import DeadLetters

FOR_EVER = 100_000.0
"""Virtual seconds after which what has not ended never will."""


class _Selector(selectors.DefaultSelector):
    """Waits by moving the time on."""

    now = 1000.0

    def select(self, timeout: float | None = None) -> Any:
        self.now += timeout or 0.0
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock moves when all have to wait."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now


def now() -> float:
    """The virtual time."""
    return asyncio.get_running_loop().time()


async def turns(count: int) -> None:
    """Let the loop make so many turns."""
    for _ in range(count):
        await asyncio.sleep(0)


class Lines(logging.Handler):
    """What catga logs during a history."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


class World:
    """Applications with handlers for all messages, and what happened in them.

    Args:
        noise: the seed of all but the calls.
    """

    def __init__(self, noise: int = 0) -> None:
        self.rng = random.Random(noise)
        self.runs: list[Run] = []
        self.calls: list[Call] = []
        self.leaving: list[tuple[Call, asyncio.Task[Any]]] = []
        self.lines = Lines()
        self.apps: list[Mediator] = []
        self.on_begin: Callable[[Run], None] = lambda _: None
        self.on_end: Callable[[Run], None] = lambda _: None
        self.on_call: Callable[[Call], None] = lambda _: None
        self.replay: Callable[[Call], Awaitable[Any]] | None = None

    def app(self, *behaviors: Any) -> Mediator:
        """Add an application."""
        app, number = Mediator(strict=False), len(self.apps)
        for behavior in behaviors:
            app.behavior(behavior)
        for cls in (Ask, Look):
            app.handles(cls)(self._handler("ask", number))
        app.handles(Plain)(self._plain("plain", number))
        for cls in EVENTS:
            for name in HANDLERS:
                app.handles(cls)((self._plain if name == "plain" else self._handler)(name, number))
        self.apps.append(app)
        return app

    def _handler(self, name: str, app: int) -> Callable[[Any], Awaitable[int]]:
        async def handle(message: Any) -> int:
            run = self._begin(name, message, app)
            try:
                await turns(run.how.turns)
                await asyncio.sleep(run.how.wait)
                return self._finish(run)
            except asyncio.CancelledError:
                if run.ends:  # it is its own
                    raise
                run.was_cancelled = True
                return await self._cancelled(run)
            finally:
                self._ended(run)

        handle.__qualname__ = name
        return handle

    def _plain(self, name: str, app: int) -> Callable[[Any], int]:
        def handle(message: Any) -> int:
            run = self._begin(name, message, app)
            try:
                return self._finish(run)
            finally:
                self._ended(run)

        handle.__qualname__ = name
        return handle

    def _begin(self, name: str, message: Any, app: int) -> Run:
        call = calling.get()
        how = call.how(name, len(call.runs_of(name)))
        run = Run(call, name, message, len(self.runs), how, app, now())
        self.runs.append(run)
        call.runs.append(run)
        self.on_begin(run)
        return run

    def _ended(self, run: Run) -> None:
        """Cancel the publishers that leave now: in the turn in which others learn of this end."""
        run.ended = now()
        for call, task in self.leaving:
            call.cancel_at_end -= 1
            if call.cancel_at_end == 0:
                asyncio.get_running_loop().call_soon(self._leave, call, task)
        self.on_end(run)

    def _leave(self, call: Call, task: "asyncio.Task[Any]") -> None:
        call.was_cancelled |= task.cancel()

    def _finish(self, run: Run) -> int:
        if run.how.ends == VALUE:
            run.ends = VALUE
            return run.number
        run.ends, run.error = ERROR, raised(run.how.ends)
        raise run.error

    async def _cancelled(self, run: Run) -> int:
        if run.how.on_cancel == "slow":
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.02)
        if run.how.on_cancel == "value":
            run.ends = VALUE
            return run.number
        if run.how.on_cancel == "error":
            run.ends, run.error = ERROR, ValueError("while it was cancelled")
            raise run.error
        run.ends = CANCELLED
        raise asyncio.CancelledError

    # -- a history ----------------------------------------------------------------------------------------

    async def play(self, seeds: Sequence[int], classes: Sequence[type], *, unique: bool = False) -> None:
        """Make a call for each seed, and wait until nothing is left."""
        self.calls = [Call(seed, number, classes, unique) for number, seed in enumerate(seeds)]
        tasks = {asyncio.create_task(self._drive(call)) for call in self.calls}
        _, pending = await asyncio.wait(tasks, timeout=FOR_EVER)
        assert not pending, f"never ended: {[call.seed for call in self.calls if call.ended is None]}"
        for task in tasks:
            task.result()
        await self.quiet()

    def some(self) -> tuple[type, ...]:
        """Return the classes of this history: all, or a few, so that more messages meet."""
        return self.rng.choice((REQUESTS + EVENTS, (Ask,), (Ask,), (Ask, Look), (Happened, AtOnce)))

    async def quiet(self) -> None:
        """Wait until no task is left but this one."""
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            _, pending = await asyncio.wait(others, timeout=FOR_EVER)
            assert not pending, f"tasks are left: {pending}"
        await turns(2)
        assert not settling._running

    async def call(self, cls: type, app: int = 0, **fields: int) -> Any:
        """Make one more call that goes well at once, after all others."""
        call = Call(0, len(self.calls), (cls,))
        call.message = cls(**fields)
        call.how = lambda handler, attempt: How(0.0, 0, VALUE, "raise")  # type: ignore[method-assign]
        call.began = now()
        self.calls.append(call)
        token = calling.set(call)
        app_ = self.apps[app]
        call.result = await (app_.publish(call.message) if call.is_event else app_.send(call.message))
        calling.reset(token)
        return call.result

    async def _drive(self, call: Call) -> None:
        await asyncio.sleep(call.at)
        await turns(call.start_turns)
        task = asyncio.create_task(self._send(call))
        self.leaving.append((call, task))
        cancelling = [asyncio.create_task(self._cancel(call, task, *when)) for when in call.cancels]
        await asyncio.wait([task])
        call.ended = now()
        call.result = CANCELLED if task.cancelled() else task.result()
        for each in cancelling:
            await each

    async def _send(self, call: Call) -> Any:
        calling.set(call)
        call.began = now()
        self.on_call(call)
        app = self.apps[call.pick % len(self.apps)]
        if call.cls is DeadLetters:
            assert self.replay is not None
            return await self.replay(call)
        verb: Any = app.publish if call.is_event else app.send
        try:
            return await verb(call.message, timeout=call.timeout)
        finally:
            call.is_over = True

    async def _cancel(self, call: Call, task: "asyncio.Task[Any]", after: float, count: int) -> None:
        if after:
            await asyncio.sleep(after)
        await turns(count)
        self._leave(call, task)

    # -- what is always so --------------------------------------------------------------------------------

    def check(self, *, shared: bool = False) -> None:
        """Who was cancelled, and nobody else, gets a CancelledError; a failure is never a success.

        Args:
            shared: a call may have what another one's run gave.
        """
        assert all(run.ends for run in self.runs)
        for call in self.calls:
            text = f"{call.seed} {call.message}: {call.result}"
            assert all(run.ended <= (call.ended or run.ended) for run in call.runs), f"it goes on: {text}"
            if call.cancelled:
                assert call.was_cancelled, f"nobody cancelled {text}"
            elif call.was_cancelled:
                assert call.swallowed, f"the cancellation was lost: {text}"
            if isinstance(call.result, Success) and call.message is not None:
                self._check_success(call, text, shared)

    def _check_success(self, call: Call, text: str, shared: bool) -> None:
        if not call.is_event:
            run = self.runs[call.result.value]
            assert run.ends == VALUE, text
            assert run.message == call.message, text
        for handler in HANDLERS if call.is_event else ():
            runs = self.runs if shared else call.runs
            runs = [run for run in runs if run.handler == handler and run.message == call.message]
            assert VALUE in (run.ends for run in (runs if shared else runs[-1:])), text

    def is_whole(self, call: Call) -> None:
        """A call without a behavior that answers in place of the handler: each handler says how it ended."""
        names = HANDLERS if call.is_event else tuple({run.handler for run in call.runs})
        last = [call.runs_of(name)[-1] for name in names if call.runs_of(name)]
        if isinstance(call.result, Success):
            assert len(last) == len(names) > 0
            assert all(run.ends == VALUE for run in last)
        elif isinstance(call.result, Failure):
            is_short = call.timeout or call.cls is Brief
            assert is_short or not last or len(last) == len(names)
            assert is_short or any(run.ends != VALUE for run in last) or not last


Body = Callable[[World, list[int]], Awaitable[None]]


@contextmanager
def _listening(lines: Lines) -> Iterator[None]:
    """Nobody else gets what is logged, as that takes most of the time."""
    logger = logging.getLogger("catga")
    before = logger.level, logger.propagate
    logger.addHandler(lines)
    logger.propagate = False
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(lines)
        logger.level, logger.propagate = before


def run_history(body: Body, seeds: list[int], noise: int) -> None:
    """Play one history in a loop of its own."""
    random.seed(noise)
    loop, world = VirtualLoop(), World(noise)
    complaints: list[Any] = []
    loop.set_exception_handler(lambda _, found: complaints.append(found))
    try:
        with _listening(world.lines):
            loop.run_until_complete(body(world, seeds))
        assert not complaints
    finally:
        for task in asyncio.all_tasks(loop):  # after a failure alone
            task.cancel()
        loop.run_until_complete(turns(20))
        loop.close()


def histories(body: Body, times: int = 3) -> Callable[[], None]:
    """Make a test of `body`, which plays a history and checks it. Hypothesis leaves out calls of one that fails.

    Args:
        times: so many times the usual number of examples.
    """

    @settings(deadline=None, max_examples=times * settings.default.max_examples)
    @given(st.lists(st.integers(0, 2**31), min_size=4, max_size=16), st.integers(0, 2**31))
    def test(seeds: list[int], noise: int) -> None:
        run_history(body, seeds, noise)

    test.__name__ = test.__qualname__ = body.__name__
    test.__doc__ = body.__doc__
    return test


def many_histories(body: Body) -> Callable[[], None]:
    """As `histories`, for what has to meet rare cases."""
    return histories(body, times=5)
