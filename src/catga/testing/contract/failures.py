"""Promises about what goes wrong: errors as the caller sees them, bad input, deadlines, cancellation."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec

from catga import CatgaResult, Failure
from catga.abc import Outgoing
from catga.errors import (
    CatgaError,
    CatgaTimeoutError,
    ClosedError,
    HandlerError,
    HandlerNotFoundError,
    InvalidMessageError,
    NoNodeAvailableError,
    OverloadedError,
)
from catga.rpc.wire import VERSION
from catga.testing.contract.bed import Bed
from catga.testing.contract.membership import see_each_other
from catga.testing.contract.words import (
    App,
    Blob,
    Crash,
    Enlarge,
    LooseReserve,
    OutOfStock,
    Reserve,
    Reserved,
    Wait,
    Whoami,
)
from catga.testing.waiting import eventually

E = TypeVar("E", bound=CatgaError)
BROKER_LIMIT = 20 * 1024 * 1024


def failed(result: CatgaResult[Any], cls: type[E]) -> E:
    """The error of a result that must be a failure of exactly this class."""
    assert isinstance(result, Failure), result
    assert type(result.error) is cls, repr(result.error)
    return result.error


async def errors_keep_their_class(bed: Bed) -> None:
    """An error of the tree, or a subclass with a code of its own, arrives as the same class with its details."""
    a, b = await bed.node("a"), await bed.node("b", App("b").mediator)
    await see_each_other(a, b)
    result = await a.send(Reserve("nut", 11))
    error = failed(result, OutOfStock)
    assert (error.message, error.details) == ("only 10 of nut", {"sku": "nut", "left": 10})
    assert error.code == "contract.out_of_stock"
    assert (result.metadata.node_id, result.metadata.attempts) == ("b", 1)


async def what_a_handler_raises_is_a_handler_error(bed: Bed) -> None:
    """Another exception arrives as `HandlerError`, with the remote type's name and text; it is not retried."""
    app = App("b")
    a, b = await bed.node("a"), await bed.node("b", app.mediator)
    await see_each_other(a, b)
    error = failed(await a.send(Crash()), HandlerError)
    assert error.details == {"type": "ZeroDivisionError", "message": "by hand"}
    assert not error.is_retryable


async def nobody_handles_it(bed: Bed) -> None:
    """A message that no node handles: the error has near misses, and tells who handles what."""
    a, b = await bed.node("a"), await bed.node("b", App("b").mediator)
    await see_each_other(a, b)
    error = failed(await a.send(Reserved()), HandlerNotFoundError)
    assert error.details["near"][0] == "contract.Reserve"
    assert error.details["handled"]["contract.Reserve"] == ["b"]
    assert "did you mean contract.Reserve" in error.message
    assert "(b)" in error.message
    named = failed(await a.send_to_node(Reserved(), "b"), HandlerNotFoundError)
    assert named.details["near"][0] == "contract.Reserve"


async def who_handled_it_is_gone(bed: Bed) -> None:
    """When the last node that handles a message has left, the failure says so, and can be retried."""
    a, b = await bed.node("a"), await bed.node("b", App("b").mediator)
    await see_each_other(a, b)
    assert (await a.send(Whoami())).is_success
    await b.stop()
    await eventually(lambda: [n.node_id for n in a.get_nodes()] == ["a"])
    assert failed(await a.send(Whoami()), NoNodeAvailableError).is_retryable
    assert failed(await a.send(Enlarge(1)), NoNodeAvailableError).is_retryable  # never sent before
    try:
        await a.send_to_all(Enlarge(1))
    except NoNodeAvailableError as error:
        assert error.is_retryable  # noqa: PT017 - what is raised says so, too
    else:
        raise AssertionError("it raised nothing")


async def an_invalid_payload_names_the_field(bed: Bed) -> None:
    """A payload that fails validation at the node that decodes it tells the caller the path of the field."""
    a, b = await bed.node("a"), await bed.node("b", App("b").mediator)
    await see_each_other(a, b)
    error = failed(await a.send(LooseReserve("nut", "many")), InvalidMessageError)
    assert error.details["path"] == "$.qty"
    assert "$.qty" in error.message
    assert (await a.send(LooseReserve("nut", 3))).unwrap() == 3


async def too_large_is_a_clear_error(bed: Bed) -> None:
    """A request or a value of 20 MiB fails with the limit in the text; the connection is unharmed."""
    a, b = await bed.node("a"), await bed.node("b", App("b").mediator)
    await see_each_other(a, b)
    ear = await bed.transport()
    if ear.transport.max_payload > BROKER_LIMIT:
        return
    waiting = asyncio.create_task(a.send(Wait()))
    error = failed(await a.send(Blob(bytes(BROKER_LIMIT))), InvalidMessageError)
    assert error.details["limit"] <= ear.transport.max_payload
    assert "limit" in failed(await a.send(Enlarge(BROKER_LIMIT)), HandlerError).message
    largest = ear.transport.max_payload - 1024
    assert (await a.send(Blob(bytes(largest)))).unwrap() == largest
    assert not waiting.done()
    waiting.cancel()
    assert not bed.logged("the link to the broker is down")


async def garbage_is_survived(bed: Bed) -> None:
    """Garbage on a node's inbox is counted, logged once, and harms no request."""
    a, b = await bed.node("a"), await bed.node("b", App("b").mediator)
    await see_each_other(a, b)
    ear = await bed.transport()
    for data in GARBAGE:
        ear.transport.publish([Outgoing(bed.inbox(b.current_node), data, 1)])
    await eventually(lambda: b.counters["garbage"] >= len(GARBAGE))
    assert b.counters["garbage"] == len(GARBAGE)
    assert len(bed.logged("garbage on the bus")) == 1
    assert (await a.send(Whoami())).unwrap() == "b"
    assert b.counters.get("internal_errors", 0) == 0


_pack = msgspec.msgpack.encode
GARBAGE: tuple[bytes, ...] = (
    b"",
    b"\xff" * 100,
    b'{"json": true}',
    bytes(range(256)),
    b"\x91" * 5000,  # deep nesting
    b"\xdd\xff\xff\xff\xff",  # an array that claims four billion elements
    _pack([VERSION + 1, "x", 1, 0.0, "", []]),
    _pack([VERSION, "x", 1, 0.0, "", [[99]]]),
    _pack([VERSION, "x", "newest", 0.0, "", []]),
    _pack([VERSION, "x", 1, 0.0, "", [[0, "id", 7]]]),
    _pack([VERSION, b"\xff\xfe".decode("latin-1"), 1, 0.0, "", [[0]]]),
)


async def a_malformed_body_harms_only_itself(bed: Bed) -> None:
    """Of calls in one batch, the one with a bad body or an unknown type fails; the others are answered."""
    b = await bed.node("b", App("b").mediator)
    whoami = next(name for name in b.current_node.handles if name.endswith("Whoami"))
    ear = await bed.transport()
    box = bed.subject("reply.box")
    await ear.transport.subscribe(box)
    calls: list[Any] = [
        [0, 1, whoami, 5000, b"\xc1"],
        [0, 2, "no.such.Type", 5000, b""],
        [0, 3, whoami, 5000, _pack([])],
    ]
    calls[2][4] = _pack({"text": "x"})
    await ear.publish(bed.inbox(b.current_node), _pack([VERSION, "x", 1, 0.0, box, calls]))
    frames: list[Any] = []

    def all_answered() -> bool:
        frames[:] = [frame for data in ear.messages for frame in msgspec.msgpack.decode(data)[5]]
        return len(frames) >= 3

    await eventually(all_answered)
    assert {frame[1]: frame[2] for frame in frames if frame[0] == 2} == {1: "invalid_message", 2: "handler_not_found"}
    assert [msgspec.msgpack.decode(frame[2]) for frame in frames if frame[0] == 1] == ["b"]


async def deadlines_end_calls(bed: Bed) -> None:
    """A handler slower than the time-out: `CatgaTimeoutError` for the caller, cancellation for the handler."""
    app = App("b")
    a, b = await bed.node("a", request_timeout=1.0), await bed.node("b", app.mediator)
    await see_each_other(a, b)
    error = failed(await a.send(Wait()), CatgaTimeoutError)
    assert isinstance(error, TimeoutError)
    await eventually(app.cancelled.is_set)
    assert app.calls["wait"] == 1


async def deadlines_end_local_calls(bed: Bed) -> None:
    """A call that the node runs itself ends at the same deadline."""
    app = App("a")
    a = await bed.node("a", app.mediator, request_timeout=0.2)
    failed(await a.send(Wait()), CatgaTimeoutError)
    await eventually(app.cancelled.is_set)


async def cancelling_a_send_cancels_the_handler(bed: Bed) -> None:
    """When the caller is cancelled, the remote handler is, too."""
    app = App("b")
    a, b = await bed.node("a"), await bed.node("b", app.mediator)
    await see_each_other(a, b)
    call = asyncio.create_task(a.send(Wait()))
    await eventually(app.started.is_set)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    assert call.cancelled()
    await eventually(app.cancelled.is_set)
    assert (await a.send(Whoami())).is_success


async def a_full_node_refuses_at_once(bed: Bed) -> None:
    """Beyond concurrency and queue, calls fail with `OverloadedError` at once, and none of them has run."""
    app = App("b")
    a, b = await bed.node("a"), await bed.node("b", app.mediator, max_concurrency=2, max_queue=3)
    await see_each_other(a, b)
    calls = [asyncio.create_task(a.send(Wait())) for _ in range(8)]
    await eventually(app.started.is_set)
    await eventually(lambda: sum(call.done() for call in calls) == 3)
    for call in calls:
        if call.done():
            assert failed(call.result(), OverloadedError).is_retryable
    app.release.set()
    results = await asyncio.gather(*calls)
    assert sum(result.is_success for result in results) == 5
    assert app.calls["wait"] == 5


async def overload_goes_elsewhere(bed: Bed) -> None:
    """What a full node refuses runs on another."""
    full, free = App("b"), App("c")
    a = await bed.node("a")
    b = await bed.node("b", full.mediator, max_concurrency=1, max_queue=0)
    c = await bed.node("c", free.mediator)
    await see_each_other(a, b, c)
    call = asyncio.create_task(a.send_to_node(Wait(), "b"))
    await eventually(full.started.is_set)
    results = [await a.send(Whoami()) for _ in range(6)]
    assert {result.unwrap() for result in results} == {"c"}
    assert {result.metadata.attempts for result in results} <= {1, 2}
    full.release.set()
    assert (await call).unwrap() == "b"


async def a_node_that_is_not_running_says_so(bed: Bed) -> None:
    """Before the start and after the stop, calls fail with `ClosedError`; nothing hangs."""
    node = bed.unstarted("a", App("a").mediator)
    assert "async with" in failed(await node.send(Whoami()), ClosedError).message
    async with node:
        assert (await node.send(Whoami())).is_success
    failed(await node.send(Whoami()), ClosedError)
    await node.stop()


async def stopping_ends_pending_calls(bed: Bed) -> None:
    """A call in flight when its own node stops ends with an explicit failure."""
    app = App("b")
    a, b = await bed.node("a"), await bed.node("b", app.mediator, drain_timeout=0.2)
    await see_each_other(a, b)
    call = asyncio.create_task(a.send(Wait()))
    await eventually(app.started.is_set)
    await a.stop()
    failed(await call, ClosedError)


PROMISES: tuple[Callable[[Bed], Awaitable[None]], ...] = (
    errors_keep_their_class,
    what_a_handler_raises_is_a_handler_error,
    nobody_handles_it,
    who_handled_it_is_gone,
    an_invalid_payload_names_the_field,
    too_large_is_a_clear_error,
    garbage_is_survived,
    a_malformed_body_harms_only_itself,
    deadlines_end_calls,
    deadlines_end_local_calls,
    cancelling_a_send_cancels_the_handler,
    a_full_node_refuses_at_once,
    overload_goes_elsewhere,
    a_node_that_is_not_running_says_so,
    stopping_ends_pending_calls,
)
