"""What is in one call, or its answer, harms no other: they travel in batches, and users put anything into them."""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from typing import Any, NoReturn

import msgspec
import pytest

from catga import DistributedMediator, Event, Failure, Mediator, Request, add_cluster, message
from catga.abc import BackendSettings, Forward, Handle, Outgoing
from catga.backends import open_backend
from catga.errors import (
    CatgaError,
    CatgaTimeoutError,
    Execution,
    HandlerError,
    HandlerNotFoundError,
    InvalidMessageError,
    MaybeExecutedError,
    NoNodeAvailableError,
    OverloadedError,
)
from catga.rpc.client import MAX_STEPS
from catga.rpc.outcomes import MAX_FAULT, error_of, fault_of
from catga.rpc.subjects import inbox
from catga.rpc.wire import VERSION, Fault, decode_batch, encode_batch
from catga.testing import eventually

URL = "memory://contents"


class Mute(Exception):
    def __str__(self) -> NoReturn:
        raise RuntimeError("no text")


class Unfinished(CatgaError):
    code = "unfinished"

    def __init__(self) -> None:
        pass  # and not the one it derives from


class Stubborn(CatgaError):
    """Its attributes cannot be set."""

    code = "stubborn"

    @property
    def is_retryable(self) -> bool:  # type: ignore[override]
        return True

    @property
    def execution(self) -> Execution:  # type: ignore[override]
        return Execution.NO


class Unsayable:
    """As a model whose own code fails."""

    def model_dump(self, **_: object) -> NoReturn:
        raise KeyError("lost")


def raising(error: Exception) -> Callable[[], NoReturn]:
    def handle() -> NoReturn:
        raise error

    return handle


def flagged() -> NoReturn:
    error = CatgaError("flags")
    error.is_retryable = None  # type: ignore[assignment]
    error.execution = "perhaps"  # type: ignore[assignment]
    raise error


ODD: dict[str, Callable[[], object]] = {
    "details that are no text": raising(CatgaError("keys", details={1: {2: object}})),  # type: ignore[dict-item]
    "flags that are none": flagged,
    "details without an end": raising(CatgaError("long", details={"all": ["x"] * 100_000})),
    "a text without an end": raising(ValueError("x" * 2_000_000)),
    "an error without a text": raising(Mute()),
    "an error that was not made": raising(Unfinished()),
    "an error that cannot be changed": raising(Stubborn("no")),
    "a value that cannot be said": Unsayable,
    "a lone surrogate": raising(ValueError("\udcff")),
}


class Ask(msgspec.Struct, Request[Any], frozen=True):
    what: str


class AskDirectly(msgspec.Struct, Request[Any], frozen=True):
    what: str


class Told(msgspec.Struct, Event, frozen=True):
    pass


class Wait(msgspec.Struct, Request[None], frozen=True):
    pass


@message(timeout=0.1)
class WaitShortly(msgspec.Struct, Request[None], frozen=True):
    pass


class Tenant:
    """An interceptor with a header that is no text, and a `handling` that may forget its result."""

    def __init__(self) -> None:
        self.header: Any = "acme"
        self.forgets = False

    async def sending(self, message: Any, headers: dict[str, str], forward: Forward) -> Any:
        headers["tenant"] = self.header
        return await forward(message, headers)

    async def handling(self, message: Any, headers: Any, handle: Handle) -> Any:
        result = await handle(message)
        return None if self.forgets else result


class Shop:
    """A node that answers anything, and its caller."""

    def __init__(self, **options: Any) -> None:
        self.cancelled = self.tidied = 0
        self.tidying = asyncio.Event()
        self.app = Mediator()
        self.app.handler(self._ask)
        self.app.handler(self._ask_directly)
        self.app.handler(self._wait)
        self.app.handler(self._wait_shortly)
        self.app.handler(self._told)
        self.caller_app = Mediator()
        self.node = add_cluster(self.app, URL, node_id="shop", **options)
        self.caller = add_cluster(self.caller_app, URL, node_id="caller", request_timeout=20.0)

    async def _ask(self, request: Ask) -> Any:
        if request.what == "cluster":
            raise MaybeExecutedError("of what it sent")
        return ODD[request.what]() if request.what in ODD else request.what

    def _ask_directly(self, request: AskDirectly) -> Any:
        return ODD[request.what]() if request.what in ODD else request.what

    async def _wait(self, request: Wait) -> None:
        await asyncio.Event().wait()

    async def _told(self, event: Told) -> None:
        raise HandlerNotFoundError("of what it sent")

    async def _wait_shortly(self, request: WaitShortly) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled += 1
            await self.tidying.wait()
            self.tidied += 1

    def peer(self, node: DistributedMediator) -> Any:
        return node._node.peer  # type: ignore[union-attr]

    async def say(self, *batches: bytes) -> None:
        backend = open_backend(BackendSettings(url=URL))
        await backend.transport.start(self)
        subject = inbox("catga", "shop", self.node.current_node.incarnation)
        backend.transport.publish([Outgoing(subject, data, 1, False) for data in batches])
        await backend.transport.aclose()

    def on_message(self, payload: bytes) -> None: ...
    def on_undeliverable(self, subject: str, token: int) -> None: ...
    def on_refused(self, subject: str, token: int, reason: str) -> None: ...
    def on_doubt(self, subject: str) -> None: ...
    def on_link(self, up: bool) -> None: ...
    def on_closed(self, reason: str) -> None: ...


@pytest.fixture
async def shop(caplog: pytest.LogCaptureFixture) -> AsyncIterator[Shop]:
    caplog.set_level(logging.CRITICAL, "catga.handlers")  # pytest-xdist cannot send all that is odd here
    shop = Shop()
    async with shop.node, shop.caller:
        yield shop


@pytest.mark.parametrize("ask", [Ask, AskDirectly])
@pytest.mark.parametrize("what", ODD)
async def test_an_answer_that_cannot_travel_as_it_is_is_told_and_harms_no_other(
    shop: Shop, ask: type[Ask | AskDirectly], what: str
) -> None:
    asked = ["before", what, "after"]
    before, odd, after = await asyncio.gather(*(shop.caller.send(ask(each)) for each in asked))
    assert (before.unwrap(), after.unwrap()) == ("before", "after")
    assert isinstance(odd, Failure)
    assert odd.error.execution is Execution.ANSWERED
    assert odd.metadata.node_id == "shop"
    assert len(odd.error.message) < MAX_FAULT
    assert shop.peer(shop.node)._unsent == []


def test_a_fault_that_travels_is_told_as_it_is() -> None:
    fault = fault_of(1, CatgaError("text", details={"path": "$.a", "near": ["b"], "n": 1}))
    assert fault.details == {"path": "$.a", "near": ["b"], "n": 1}
    assert fault.text == "text"


def test_an_error_that_cannot_be_made_anew_arrives_as_a_plain_one() -> None:
    error = error_of(Fault(1, Stubborn.code, "text", {"a": 1}, True, Execution.MAYBE))
    assert type(error) is CatgaError
    assert (error.message, error.details) == ("text", {"code": "stubborn", "a": 1})
    assert (error.is_retryable, error.execution) == (True, Execution.MAYBE)


async def test_a_header_that_is_no_text_fails_its_own_request_only(shop: Shop) -> None:
    tenant = Tenant()
    shop.caller_app.use(tenant)
    good = [shop.caller.send(Ask("good")) for _ in range(3)]
    tenant.header = 42
    bad, *others = await asyncio.gather(shop.caller.send(Ask("bad")), *good)
    assert isinstance(bad, Failure)
    assert isinstance(bad.error, InvalidMessageError)
    assert "tenant" in bad.error.message
    tenant.header = "acme"
    assert (await shop.caller.send(Ask("good"))).unwrap() == "good"
    assert len(others) == 3


async def test_an_interceptor_that_forgets_its_result_is_an_error_at_once(shop: Shop) -> None:
    tenant = Tenant()
    tenant.forgets = True
    shop.app.use(tenant)
    result = await shop.caller.send(Ask("x"))
    assert isinstance(result, Failure)
    assert isinstance(result.error, HandlerError)


async def test_frames_that_cannot_be_read_are_dropped_alone_and_counted(shop: Shop) -> None:
    call = [0, 7, f"{__name__}.Ask", 60.0, msgspec.msgpack.encode(Ask("x"))]
    bad: list[Any] = [[0, 1, 2], [99], "text", [0, 7, f"{__name__}.Ask", 1.0, b"", 0, {"a": 1}]]
    box = shop.peer(shop.caller)._reply_box
    await shop.say(msgspec.msgpack.encode([VERSION, "hand", 1, 0.0, box, [*bad, call]]))
    await eventually(lambda: shop.caller.counters["late_replies"] == 1)  # its answer
    assert shop.node.counters["garbage"] == len(bad)


@pytest.mark.parametrize("place", [0, 50, 100])
def test_good_frames_are_read_wherever_a_bad_one_is(place: int) -> None:
    frames: list[Any] = [[3, number] for number in range(100)]
    frames.insert(place, [99])
    told: list[str] = []
    batch = decode_batch(msgspec.msgpack.encode([VERSION, "hand", 1, 0.0, "box", frames]), told.append)
    assert [frame.nonce for frame in batch.frames] == list(range(100))  # type: ignore[union-attr]
    assert len(told) == 1


def test_a_batch_full_of_garbage_is_not_read_to_its_end() -> None:
    told: list[str] = []
    data = msgspec.msgpack.encode([VERSION, "hand", 1, 0.0, "box", [[99]] * 50_000])
    assert decode_batch(data, told.append).frames == []
    assert len(told) < 100


def test_a_batch_without_bad_frames_comes_through_as_it_is() -> None:
    data = msgspec.msgpack.encode([VERSION, "hand", 1, 0.0, "box", [[3, 1], [4, 2, 3, -1]], 4, 5, 6.0])
    assert encode_batch(decode_batch(data)) == data


async def test_a_call_of_an_unknown_name_costs_little_and_its_answer_is_short(shop: Shop) -> None:
    name = "no.such." + "x" * 600_000
    asked = await asyncio.gather(*(shop.caller.send_to_node(Unknown(), "shop") for _ in range(3)))
    for each in asked:
        assert isinstance(each, Failure)
        assert isinstance(each.error, HandlerNotFoundError)
        assert f"{__name__}.Ask (shop)" in each.error.message
    with pytest.raises(HandlerNotFoundError) as raised:
        shop.peer(shop.node).server.endpoints[name]
    assert len(fault_of(1, raised.value).text) < 1000


class Unknown(msgspec.Struct, Request[None], frozen=True):
    pass


async def test_a_handler_is_cancelled_once_so_that_it_can_put_things_in_order(shop: Shop) -> None:
    """At its deadline, by its node; that the caller says so as well, a moment later, does not count."""
    result = await shop.caller.send(WaitShortly())
    assert isinstance(result, Failure)
    assert isinstance(result.error, CatgaTimeoutError)
    await eventually(lambda: shop.cancelled == 1)
    assert (await shop.caller.send(Ask("behind it"))).is_success  # what came before it was read
    shop.tidying.set()
    await eventually(lambda: shop.tidied == 1)


async def test_a_node_that_stops_cancels_no_handler_twice() -> None:
    shop = Shop(drain_timeout=0.0)
    async with shop.node, shop.caller:
        call = asyncio.create_task(shop.caller.send(WaitShortly()))
        await eventually(lambda: shop.peer(shop.node).server.inflight == 1)
        assert isinstance(await call, Failure)
        await eventually(lambda: shop.cancelled == 1)
        stopping = asyncio.create_task(shop.node.stop())
        await eventually(lambda: shop.peer(shop.node).server._closed)
        shop.tidying.set()
        await stopping
    assert shop.tidied == 1


async def test_what_a_handler_finds_out_by_calls_of_its_own_is_its_answer(shop: Shop) -> None:
    """It says nothing of the node that it runs on, nor that there is no handler."""
    result = await shop.caller.broadcast(Told())
    assert set(result.failed) == {"shop"}
    outliers = shop.peer(shop.caller)._listener._outliers
    for _ in range(10):
        failure = await shop.caller.send(Ask("cluster"))
        assert isinstance(failure, Failure)
        assert isinstance(failure.error, MaybeExecutedError)
    assert not outliers.ejected


async def test_a_handler_that_awaits_what_was_cancelled_fails_and_cancels_nobody(shop: Shop) -> None:
    async def leave() -> None:
        raise asyncio.CancelledError

    mediator = Mediator()

    @mediator.handler
    async def ask(request: Ask) -> None:
        await leave()

    @mediator.handler
    async def told(event: Told) -> None:
        await leave()

    @mediator.handler
    async def told_too(event: Told) -> None:
        heard.append(event)

    heard: list[Told] = []
    node = add_cluster(mediator, "memory://left", node_id="alone")
    async with node:
        for sender in (mediator, node):
            for result in (await sender.send(Ask("x")), await sender.publish(Told())):
                assert isinstance(result, Failure)
                assert isinstance(result.error, HandlerError)
            assert len(await sender.send_batch([Ask("x")] * 5, concurrency=2)) == 5
        assert set((await node.broadcast(Told())).failed) == {"alone"}
    assert len(heard) == 3


async def test_a_broadcast_does_not_wait_for_who_takes_no_calls_any_more(shop: Shop) -> None:
    await shop.node.drain()
    result = await shop.caller.broadcast(Told())
    assert result.acknowledged == ("caller",)
    assert isinstance(result.failed["shop"], NoNodeAvailableError)


def test_a_fault_does_not_change_with_what_the_handler_does_to_its_error() -> None:
    details: dict[str, Any] = {"a": [1]}
    fault = fault_of(1, CatgaError("text", details=details))
    details["a"].append(object())
    assert fault.details == {"a": [1]}


@pytest.mark.parametrize("timeout", [0.0, -1.0, math.nan, math.inf])
async def test_a_timeout_that_is_none_is_refused(shop: Shop, timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout"):
        await shop.caller.send_to_all(Ask("x"), timeout=timeout)


async def test_a_local_call_that_gave_up_waiting_takes_no_place() -> None:
    shop = Shop(max_concurrency=1, max_queue=1)
    async with shop.node:
        first = asyncio.create_task(shop.node.send(Wait()))
        await eventually(lambda: shop.peer(shop.node).server.inflight == 1)
        waiting = await shop.node.send(WaitShortly())
        assert isinstance(waiting, Failure)
        assert isinstance(waiting.error, OverloadedError)
        assert waiting.error.execution is Execution.NO
        assert shop.peer(shop.node).server.inflight == 1
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)


async def test_calls_behind_one_that_takes_long_end_in_portions(shop: Shop) -> None:
    client = shop.peer(shop.caller).client
    long = asyncio.create_task(shop.caller.send(Wait()))
    await eventually(lambda: client.pending == 1)
    for _ in range(3 * MAX_STEPS):
        client._newest = next(client.ids)
    long.cancel()
    await eventually(lambda: client.pending == 0)
    marks = [client.ended_before() for _ in range(5)]
    assert all(after - before <= MAX_STEPS + 1 for before, after in pairwise(marks))
    assert marks[-1] == client._newest + 1
