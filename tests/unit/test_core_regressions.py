"""What once went wrong in the middle of a node, each by a sequence that is easy to repeat."""

import asyncio
import contextvars
from dataclasses import dataclass
from unittest import mock

from catga import DistributedMediator, Failure, Mediator, Request, Success, add_cluster, message
from catga.abc import Outgoing
from catga.errors import ClosedError, Execution
from catga.testing.waiting import eventually

WHO: contextvars.ContextVar[str] = contextvars.ContextVar("WHO", default="nobody")


@dataclass(frozen=True, slots=True)
class Slow(Request[str]):
    seconds: float


@dataclass(frozen=True, slots=True)
class Quick(Request[str]):
    number: int


@message(idempotent=True, timeout=30.0)
@dataclass(frozen=True, slots=True)
class Patient(Request[str]):
    pass


def worker(name: str, **options: float) -> DistributedMediator:
    app = Mediator()

    @app.handler
    async def slow(request: Slow) -> str:
        WHO.set("alice")
        await asyncio.sleep(request.seconds)
        return "done"

    @app.handler
    async def quick(request: Quick) -> str:
        return WHO.get()

    @app.handler
    async def patient(request: Patient) -> str:
        await asyncio.Event().wait()
        return "never"

    return add_cluster(app, f"memory://{name}", node_id="worker", **options)


def caller(name: str) -> DistributedMediator:
    return add_cluster(Mediator(), f"memory://{name}", node_id="caller")


async def test_a_deep_queue_of_handlers_that_never_wait_is_answered_in_full() -> None:
    async with worker("deep", max_concurrency=1, max_queue=2000) as node, caller("deep") as sender:
        first = asyncio.create_task(sender.send(Slow(0.2)))
        await eventually(lambda: node.current_node is not None and sender.counters["pending_calls"] == 1)
        rest = await asyncio.gather(*(sender.send(Quick(n)) for n in range(1500)))
        assert isinstance(await first, Success)
        assert all(isinstance(result, Success) for result in rest)


async def test_a_queued_call_does_not_run_in_the_context_of_the_one_before() -> None:
    async with worker("context", max_concurrency=1) as _, caller("context") as sender:
        first = asyncio.create_task(sender.send(Slow(0.1)))
        await eventually(lambda: sender.counters["pending_calls"] == 1)
        assert (await sender.send(Quick(1))).unwrap() == "nobody"
        assert (await first).unwrap() == "done"


async def test_stop_waits_for_what_a_drain_before_it_accepted() -> None:
    async with caller("drained") as sender:
        node = worker("drained")
        await node.start()
        call = asyncio.create_task(sender.send(Slow(0.5)))
        await eventually(lambda: sender.counters["pending_calls"] == 1)
        draining = asyncio.create_task(node.drain())
        await asyncio.sleep(0)
        await node.stop()
        await draining
        assert (await call).unwrap() == "done"


async def test_who_stops_a_node_that_is_stopping_waits_for_its_end() -> None:
    async with caller("twice") as sender:
        node = worker("twice")
        await node.start()
        call = asyncio.create_task(sender.send(Slow(0.5)))
        await eventually(lambda: sender.counters["pending_calls"] == 1)
        first = asyncio.create_task(node.stop())
        await asyncio.sleep(0)
        await asyncio.gather(node.stop(), asyncio.to_thread(lambda: asyncio.run(node.stop())))
        assert first.done()
        assert node.health == "closed"
        assert (await call).unwrap() == "done"


async def test_a_handler_that_holds_on_to_its_cancellation_does_not_hold_the_node() -> None:
    app = Mediator()
    release = asyncio.Event()

    @app.handler
    async def slow(request: Slow) -> str:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        return "late"

    async with caller("stubborn") as sender:
        node = add_cluster(app, "memory://stubborn", node_id="worker", drain_timeout=0.1)
        await node.start()
        call = asyncio.create_task(sender.send(Slow(1.0)))
        await eventually(lambda: sender.counters["pending_calls"] == 1)
        async with asyncio.timeout(20):
            await node.stop()
        release.set()
        await call


async def test_calls_in_flight_when_their_own_node_stops_end_with_it_and_in_doubt() -> None:
    async with worker("own", drain_timeout=0.0):
        sender = caller("own")
        await sender.start()
        call = asyncio.create_task(sender.send(Patient()))
        await eventually(lambda: sender.counters["pending_calls"] == 1)
        await sender.stop()
        async with asyncio.timeout(10):
            result = await call
        assert isinstance(result, Failure)
        assert result.error.execution is Execution.MAYBE


async def test_a_handler_registered_while_the_link_is_down_is_announced_when_it_is_back() -> None:
    app = Mediator()
    async with add_cluster(app, "memory://later", node_id="worker") as node, caller("later") as sender:
        peer = node._node.peer  # type: ignore[union-attr]
        peer.on_link(False)

        @app.handler
        async def quick(request: Quick) -> str:
            return "here"

        peer.on_link(True)
        await eventually(lambda: any(n.handles for n in sender.get_nodes()))
        assert (await sender.send(Quick(1))).unwrap() == "here"


async def test_calls_cancelled_before_their_first_step_leave_nothing_behind() -> None:
    async with worker("forgotten") as node, caller("forgotten") as sender:
        for _ in range(20):
            call = asyncio.create_task(sender.send(Slow(5.0)))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
        server = node._node.peer.server  # type: ignore[union-attr]
        await eventually(lambda: not server.inflight and not server._calls)


async def test_a_call_cancelled_in_the_turn_in_which_its_node_stops_gives_back_no_place_that_it_never_had() -> None:
    async with worker("places", max_concurrency=1) as node:
        server = node._node.peer.server  # type: ignore[union-attr]
        running, waiting = [asyncio.create_task(node.send(Slow(30.0))) for _ in range(2)]
        await eventually(lambda: server.inflight == 2)
        stopping = asyncio.create_task(server.close())
        await asyncio.sleep(0)  # what waits was refused by now, and was not told yet
        waiting.cancel()
        await stopping
        await asyncio.gather(waiting, return_exceptions=True)
        assert isinstance((await running).error, ClosedError)
        assert server.inflight == 0


async def test_a_call_cancelled_in_the_turn_in_which_it_gets_its_place_gives_it_back() -> None:
    async with worker("given", max_concurrency=1) as node:
        server = node._node.peer.server  # type: ignore[union-attr]
        running, waiting = [asyncio.create_task(node.send(Slow(30.0))) for _ in range(2)]
        await eventually(lambda: server.inflight == 2)
        running.cancel()
        await asyncio.sleep(0)  # it has ended, and what waits was not told yet
        assert server.inflight == 1
        waiting.cancel()
        await asyncio.gather(running, waiting, return_exceptions=True)
        assert server.inflight == 0


async def test_the_wrong_verb_or_no_message_is_refused_with_the_likely_mistake() -> None:
    app = Mediator()
    app.handles(Quick)(lambda request: "ran")
    async with add_cluster(app, "memory://verbs", node_id="worker") as node:
        for mediator in (app, node):
            for wrong, verb, hint in (
                (Quick(1), mediator.publish, "is a request: send it"),
                (Quick, mediator.send, "send an instance, Quick(...)"),
                ("hello", mediator.send, "is no request"),
            ):
                result = await verb(wrong)  # type: ignore[arg-type]
                assert isinstance(result, Failure)
                assert hint in str(result.error), str(result.error)


async def test_an_inbox_that_is_closed_while_it_is_subscribed_again_stays_closed() -> None:
    node = add_cluster(Mediator(), "memory://closed-meanwhile", node_id="me")
    async with node:
        peer, allowed = node._joined().peer, asyncio.Event()
        subscribe = peer._transport.subscribe

        async def slowly(subject: str, *, shared: bool = False) -> None:
            await allowed.wait()
            await subscribe(subject, shared=shared)

        with mock.patch.object(peer._transport, "subscribe", slowly):
            subject = peer._inbox
            peer._doubtful[subject] = False
            again = asyncio.create_task(peer._subscribe_again())
            await asyncio.sleep(0)
            await peer.close_inbox()
            allowed.set()
            await again
        bounced = asyncio.get_running_loop().create_future()
        with mock.patch.object(peer, "on_undeliverable", lambda to, _: bounced.set_result(to)):
            peer._transport.publish([Outgoing(subject, b"", 1)])
            assert await bounced == subject
