"""`Mediator`: messages to handlers within one process."""

import logging
import os
import weakref
from collections.abc import AsyncIterable, AsyncIterator, Coroutine, Iterable
from functools import partial
from itertools import islice
from types import ModuleType
from typing import Any, TypeVar

from catga.abc import Interceptor, Resolver
from catga.errors import CatgaError, ClosedError
from catga.mediator.ambient import awaiting, made, running, runs_handlers
from catga.mediator.bounded import run_all, run_stream
from catga.mediator.check import Problem, check
from catga.mediator.pipeline import combined, failed
from catga.mediator.registry import Runners
from catga.mediator.router import Router
from catga.mediator.threads import MAX_THREADS, Threads
from catga.messages import Event, Request, is_event, is_request, no_message
from catga.result import CatgaResult, Failure, Success, joint_failure, told
from catga.seconds import check_timeout

logger = logging.getLogger("catga.mediator")

R = TypeVar("R")

DEFAULT_CONCURRENCY = 64
STRICT = "CATGA_STRICT"
"""The environment variable that tells whether mediators are strict that do not say it themselves."""
_STRICT = {"1": True, "true": True, "yes": True, "on": True} | dict.fromkeys(("", "0", "false", "no", "off"), False)
LISTED = 20
"""Failures of a batch that are told one by one."""

_DONE: Success[None] = Success(None)


class Mediator(Router):
    """Sends each request to its one handler and each event to all of its handlers, in this process.

    `add_cluster` gives the same handlers and the same verbs to a cluster.

    Args:
        resolver: makes the instances of class-based handlers; by default ``HandlerClass()``.
        strict: pass messages and values as if they crossed the wire, and refuse what cannot: then a program means the
            same as in a cluster. Without it they are passed by reference. If it is None, the environment variable
            ``CATGA_STRICT`` decides: it is 1 in tests (`catga.testing.plugin`), else mediators are not strict.

    Raises:
        ValueError: ``CATGA_STRICT`` says neither yes nor no.
    """

    def __init__(self, *, resolver: Resolver | None = None, strict: bool | None = None) -> None:
        super().__init__(resolver=resolver)
        self._runners = Runners(self.registry, strict=_is_strict() if strict is None else strict)
        self._request_calls = self._runners.request_calls
        self._event_calls = self._runners.event_calls
        self._nodes: list[weakref.ref[Mediator]] = []  # while there are some, nothing is in the two tables
        self._had_node = False
        self._threads = Threads(MAX_THREADS)
        made(self)

    def use(self, interceptor: Interceptor) -> None:
        """Put an interceptor around the way of every message; the first is outermost.

        Raises:
            TypeError: it has no `sending` and `handling`, or is a class.
        """
        if isinstance(interceptor, type):
            raise TypeError(f"{interceptor!r} is a class: give an interceptor that it makes")
        if not (hasattr(interceptor, "sending") and hasattr(interceptor, "handling")):
            raise TypeError(f"{interceptor!r} has no `sending` and `handling`: a behavior is added by `behavior`")
        self.registry.add_interceptor(interceptor)

    def _was_included(self) -> None:
        """It goes on for itself."""

    def check(self, *targets: ModuleType | type) -> list[Problem]:
        """Mistakes that would only show at the first message: call it at the start, or in a test.

        Args:
            targets: message classes, and modules that define some, all of which must have their handlers here.

        Returns:
            Requests without a handler, two classes with one wire name, messages that cannot travel, and handlers
            whose annotation is not the answer of their request.
        """
        return check(self.registry, targets)

    # -- verbs ----------------------------------------------------------------------------------------

    # In `send` and `publish` the timeout is no keyword-only argument, as the interpreter calls such functions slowly.
    async def send(self, request: Request[R], timeout: float | None = None) -> CatgaResult[R]:
        """Run the request's handler. Await it for ``Success(value)`` or ``Failure(error)``; it raises nothing
        but `asyncio.CancelledError`, and that only if its own task is cancelled. ``sys.exit()`` and Ctrl-C in a handler
        end the program.

        Args:
            timeout: seconds, over the message's own. ValueError if it is none.

        Failures: `HandlerNotFoundError`; `HandlerError` (the handler raised; ``__cause__`` has the original);
        any `CatgaError` that the handler or a behavior raised or returned.
        """
        if timeout is not None:
            return await self._send_otherwise(request, timeout)
        try:
            return Success(await self._request_calls[type(request)](request))
        except BaseException as error:  # noqa: BLE001 - the border around a user's handler
            if type(error) is not KeyError or type(request) in self._request_calls or not _is_own(error):
                return Failure(failed(error, request))
        return await self._send_otherwise(request)

    async def publish(self, event: Event, timeout: float | None = None) -> CatgaResult[None]:
        """Run every handler of the event, one after the other; with none, do nothing.

        A handler that fails (raises, or returns a `Failure`) does not keep the others from running. ``Failure`` has
        what failed.

        Args:
            timeout: seconds for all of them, over the event's own. ValueError if it is none.
        """
        calls = self._event_calls.get(type(event))
        if calls is None or timeout is not None:  # the first one, or nobody's
            return await self._publish_otherwise(event, timeout)
        errors: tuple[CatgaError, ...] = ()
        for call in calls:
            try:
                await call(event)
            except BaseException as error:  # noqa: BLE001 - the border around a user's handler
                errors = (*errors, await calls.failed(event, call, error))
        return Failure(combined(errors)) if errors else _DONE

    async def send_batch(
        self, requests: Iterable[Request[R]], *, concurrency: int = DEFAULT_CONCURRENCY, timeout: float | None = None
    ) -> list[CatgaResult[R]]:
        """Send many, at most `concurrency` at once; results in the order of the requests.

        Args:
            timeout: seconds for each, from when it is sent.
        """
        check_timeout(timeout)
        return await run_all(partial(self.send, timeout=timeout), requests, concurrency)

    def send_stream(
        self,
        requests: Iterable[Request[R]] | AsyncIterable[Request[R]],
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        timeout: float | None = None,
    ) -> AsyncIterator[CatgaResult[R]]:
        """Send as the requests come, at most `concurrency` ahead of the reader; results in their order.

        Args:
            timeout: seconds for each, from when it is sent.
        """
        check_timeout(timeout)
        return run_stream(partial(self.send, timeout=timeout), requests, concurrency)

    async def publish_batch(
        self, events: Iterable[Event], *, concurrency: int = DEFAULT_CONCURRENCY, timeout: float | None = None
    ) -> CatgaResult[None]:
        """Publish many, at most `concurrency` at once.

        Args:
            timeout: seconds for each, from when it is published.

        ``Failure`` stands for all of them: its execution is NO only if no event ran, and ``details["failed"]`` has
        the first `LISTED` failures by the number of their event.
        """
        check_timeout(timeout)
        results = await run_all(partial(self.publish, timeout=timeout), events, concurrency)
        if len(results) == 1:
            return results[0]
        failures = {str(i): result for i, result in enumerate(results) if isinstance(result, Failure)}
        if not failures:
            return Success(None)
        first = next(iter(failures.values())).error.message
        text = f"{len(failures)} of {len(results)} events failed, the first one with: {first}"
        return joint_failure(results, text, {"failed": {i: told(failures[i]) for i in islice(failures, LISTED)}})

    # -- inside ---------------------------------------------------------------------------------------

    async def _send_otherwise(self, request: Request[R], timeout: float | None = None) -> CatgaResult[R]:
        """The first of its class, one with interceptors or a timeout, a plain function's, a node's, or nobody's."""
        if not is_request(type(request)):
            return Failure(no_message(request, "request"))
        try:
            node = self._way()
        except ClosedError as error:
            return Failure(error)
        return await (self._run(request, timeout) if node is None else node.send(request, timeout=timeout))

    async def _publish_otherwise(self, event: Event, timeout: float | None) -> CatgaResult[None]:
        """The first of its class, one with interceptors or a timeout, a node's, or nobody's."""
        if not is_event(type(event)):
            return Failure(no_message(event, "event"))
        try:
            node = self._way()
        except ClosedError as error:
            return Failure(error)
        return await (self._run(event, timeout) if node is None else node.publish(event, timeout=timeout))

    def _run(self, message: object, timeout: float | None) -> Coroutine[Any, Any, CatgaResult[Any]]:
        cls = type(message)
        if timeout is None:
            return self._runners[cls](message)
        check_timeout(timeout)
        return self._runners.within(cls, timeout)(message)

    # -- its nodes ------------------------------------------------------------------------------------

    @property
    def has_node(self) -> bool:
        """Whether a node runs its handlers: from `add_cluster` until `DistributedMediator.stop` has returned. As long
        as one does, the verbs are the node's."""
        return bool(self._nodes)

    def _joins_by(self, node: "Mediator") -> None:
        """`node` is the way from now on."""
        if not any(each() is node for each in self._nodes):
            self._nodes.append(weakref.ref(node, self._lost))
            self._runners.forget()

    def _has_left(self, node: "Mediator") -> None:
        """`node` is no way any more."""
        self._nodes = [each for each in self._nodes if each() not in (None, node)]
        self._had_node = True

    def _lives(self) -> bool:
        """Whether it can still send, as far as its event loop and its process are concerned."""
        return True

    def _lost(self, reference: "weakref.ref[Mediator]") -> None:
        self._nodes = [each for each in self._nodes if each is not reference]  # it was made, and never started

    def _way(self) -> "Mediator | None":
        """The node that is the way; None if there is none. Raises `ClosedError` if there are several."""
        if not self._nodes and not self._had_node:
            return None
        nodes = [node for node in (each() for each in self._nodes) if node is not None]
        if len(nodes) == 1:
            return nodes[0]
        if not nodes:
            if (node := running.get()) is not None and node is not self and node.registry is self.registry:
                raise ClosedError("the node that runs this handler has stopped")
            self._had_node = False
            logger.warning("the node of this Mediator has stopped: what it sends and publishes stays in this process")
            return None
        living = [node for node in nodes if node._lives()]
        if len(living) == 1:
            return living[0]
        for mediator in awaiting():
            if mediator in nodes:
                return mediator
        raise ClosedError(f"this Mediator has {len(nodes)} nodes in this process: send by one of them")


runs_handlers[Mediator.send.__code__] = lambda mediator: mediator
runs_handlers[Mediator.publish.__code__] = lambda mediator: mediator


def _is_strict() -> bool:
    """What the environment says."""
    said = os.environ.get(STRICT, "")
    found = _STRICT.get(said.strip().lower())
    if found is None:
        raise ValueError(f"{STRICT} is {said!r} in the environment: say 1, true, yes or on, or 0, false, no or off")
    return found


def _is_own(error: BaseException) -> bool:
    """Whether `error` was raised where it is caught, not further down."""
    return error.__traceback__ is not None and error.__traceback__.tb_next is None
