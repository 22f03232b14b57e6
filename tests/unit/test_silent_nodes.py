"""A node that is silent may be busy: calls that may run twice go to another node beside it, and none is ended."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

import msgspec
import pytest

from catga import Failure, Mediator, NodeInfo, Request, Success, add_cluster, message
from catga.cluster.failover import Pace, RetryBudget
from catga.errors import CatgaTimeoutError, Execution, MaybeExecutedError
from catga.testing import eventually
from catga.testing.faults import Faults, inject


@message(idempotent=True, timeout=20.0)
class Look(msgspec.Struct, Request[str], frozen=True):
    number: int


@message(idempotent=True, timeout=3.0)
class Hasty(msgspec.Struct, Request[str], frozen=True):
    number: int


@message(timeout=20.0)
class Book(msgspec.Struct, Request[str], frozen=True):
    number: int


class FirstOfAll:
    """Picks the node whose id comes first."""

    def select(self, nodes: Sequence[NodeInfo], message: object) -> NodeInfo:
        return nodes[0]


class Stage:
    """A caller and three nodes, `a` the first choice. Nodes answer when their gate is open."""

    def __init__(self, name: str) -> None:
        self.ran: list[tuple[str, int]] = []
        self.cancelled: list[tuple[str, int]] = []
        self.gates = {node_id: asyncio.Event() for node_id in "abc"}
        url = f"memory://silent-{name}"
        self.caller = add_cluster(Mediator(), url, node_id="caller", routing=FirstOfAll())
        self.nodes = {i: add_cluster(self._app(i), url, node_id=i, max_concurrency=2, max_queue=0) for i in "abc"}
        self.faults: dict[str, Faults] = {i: inject(node) for i, node in self.nodes.items()}

    def _app(self, node_id: str) -> Mediator:
        app = Mediator()

        async def run(number: int) -> str:
            self.ran.append((node_id, number))
            try:
                await self.gates[node_id].wait()
            except asyncio.CancelledError:
                self.cancelled.append((node_id, number))
                raise
            return node_id

        @app.handler
        async def look(request: Look) -> str:
            return await run(request.number)

        @app.handler
        async def hasty(request: Hasty) -> str:
            return await run(request.number)

        @app.handler
        async def book(request: Book) -> str:
            return await run(request.number)

        return app

    def silence(self, node_id: str, *, on: bool = True) -> None:
        """Nothing passes to or from the node."""
        self.faults[node_id].is_partitioned = on

    async def fill(self, node_id: str) -> None:
        """Take both places of the node, until its gate is open: it refuses what comes."""
        for _ in range(2):
            filling = asyncio.ensure_future(self.nodes[node_id].send_to_node(Book(0), node_id))
            filling.add_done_callback(lambda task: task.cancelled() or task.exception())
        await eventually(lambda: self.ran.count((node_id, 0)) == 2)

    def spend_the_budget(self) -> RetryBudget:
        """No retry is affordable any more, whatever the traffic."""
        budget = self.caller._node.dispatch._delivery._budget  # type: ignore[union-attr]
        budget._share = budget._balance = 0.0
        return budget


@pytest.fixture
async def stage(request: pytest.FixtureRequest) -> AsyncIterator[Stage]:
    stage = Stage(request.node.name)
    for node in (*stage.nodes.values(), stage.caller):
        await node.start()
    yield stage
    for node_id, gate in stage.gates.items():
        stage.silence(node_id, on=False)
        gate.set()
    for node in (stage.caller, *stage.nodes.values()):
        await node.stop()


async def begun(stage: Stage, call: Look | Book) -> "asyncio.Task[Success[str] | Failure]":
    """`call`, which runs at `a` by now; from then on `a` is silent."""
    sending = asyncio.ensure_future(stage.caller.send(call))
    await eventually(lambda: ("a", call.number) in stage.ran)
    stage.silence("a")
    return sending


async def test_another_node_answers_for_one_that_is_silent(stage: Stage) -> None:
    stage.gates["b"].set()
    result = await (await begun(stage, Look(1)))
    assert (result.unwrap(), result.metadata.attempts) == ("b", 2)


async def test_the_first_answer_of_the_two_wins_and_the_other_call_is_cancelled(stage: Stage) -> None:
    sending = await begun(stage, Look(1))
    await eventually(lambda: ("b", 1) in stage.ran)
    stage.gates["a"].set()
    stage.silence("a", on=False)
    assert (await sending).unwrap() == "a"
    await eventually(lambda: ("b", 1) in stage.cancelled)


async def test_a_call_goes_to_one_other_node_and_not_to_more(stage: Stage) -> None:
    sending = await begun(stage, Look(1))
    await eventually(lambda: ("b", 1) in stage.ran)
    await eventually(lambda: stage.caller.counters["batches"] > 20)  # it was told several times that `a` is silent
    stage.gates["b"].set()
    assert (await sending).unwrap() == "b"
    assert ("c", 1) not in stage.ran


async def test_without_budget_a_call_waits_for_its_node(stage: Stage) -> None:
    stage.spend_the_budget()
    sending = await begun(stage, Look(1))
    await eventually(lambda: any(n.state.value == "suspect" for n in stage.caller.get_nodes()))
    stage.gates["a"].set()
    stage.silence("a", on=False)
    result = await sending
    assert (result.unwrap(), result.metadata.attempts) == ("a", 1)


async def test_a_call_that_could_not_afford_it_goes_elsewhere_as_soon_as_it_can(stage: Stage) -> None:
    budget = stage.spend_the_budget()
    stage.gates["b"].set()
    sending = await begun(stage, Look(1))
    await eventually(lambda: any(n.state.value == "suspect" for n in stage.caller.get_nodes()))
    budget._balance = 1.0
    assert (await sending).unwrap() == "b"


async def test_a_refused_second_call_is_paid_back_and_goes_to_the_next_node(stage: Stage) -> None:
    stage.gates["c"].set()
    await stage.fill("b")
    budget = stage.spend_the_budget()
    budget._balance = 1.0
    assert (await (await begun(stage, Look(1)))).unwrap() == "c"
    assert ("b", 1) not in stage.ran


async def test_a_second_call_that_all_refuse_is_made_again_once_there_is_room(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = stage.caller._node.peer.client  # type: ignore[union-attr]
    monkeypatch.setattr(client, "node_unreachable", lambda *_: None)  # as when others do hear of it
    for node_id in "bc":
        await stage.fill(node_id)
    sending = await begun(stage, Look(1))
    await eventually(lambda: all(stage.nodes[i].counters["refused"] for i in "bc"))
    stage.gates["b"].set()
    assert (await sending).unwrap() == "b"


async def test_a_second_call_that_comes_too_late_does_not_hide_that_the_first_ran(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = stage.caller._node.peer.client  # type: ignore[union-attr]
    monkeypatch.setattr(client, "double", lambda _: time.sleep(3.0))  # as when the process is stopped
    sending = asyncio.ensure_future(stage.caller.send(Hasty(1)))
    await eventually(lambda: ("a", 1) in stage.ran)
    stage.silence("a")
    result = await sending
    assert isinstance(result, Failure)
    assert result.error.execution is Execution.MAYBE


async def test_what_may_not_run_twice_waits_for_its_node(stage: Stage) -> None:
    sending = await begun(stage, Book(1))
    await eventually(lambda: any(n.state.value == "suspect" for n in stage.caller.get_nodes()))
    stage.gates["a"].set()
    stage.silence("a", on=False)
    assert (await sending).unwrap() == "a"
    assert stage.ran == [("a", 1)]


async def test_if_the_first_node_dies_the_second_call_is_the_attempt(stage: Stage) -> None:
    sending = await begun(stage, Look(1))
    await eventually(lambda: ("b", 1) in stage.ran)
    client = stage.caller._node.peer.client  # type: ignore[union-attr]
    client.node_left("a", stage.nodes["a"].current_node.incarnation)
    await asyncio.sleep(0)
    stage.gates["b"].set()
    assert (await sending).unwrap() == "b"


async def test_calls_of_a_node_that_answers_nobody_move_without_budget_once(stage: Stage) -> None:
    stage.spend_the_budget()
    sending = await begun(stage, Look(1))
    client = stage.caller._node.peer.client  # type: ignore[union-attr]
    await eventually(lambda: any(n.state.value == "suspect" for n in stage.caller.get_nodes()))
    client.node_unreachable("a", stage.nodes["a"].current_node.incarnation)
    await eventually(lambda: ("b", 1) in stage.ran)
    stage.silence("b")
    await eventually(lambda: [n.state.value for n in stage.caller.get_nodes()].count("suspect") == 2)
    client.node_unreachable("b", stage.nodes["b"].current_node.incarnation)
    result = await sending
    assert isinstance(result, Failure)
    assert isinstance(result.error, MaybeExecutedError)


async def test_a_call_that_is_cancelled_is_cancelled_at_both_nodes(stage: Stage) -> None:
    sending = await begun(stage, Look(1))
    await eventually(lambda: ("b", 1) in stage.ran)
    stage.silence("a", on=False)
    sending.cancel()
    await eventually(lambda: set(stage.cancelled) == {("a", 1), ("b", 1)})


async def test_the_deadline_ends_both_calls(stage: Stage) -> None:
    gathering = asyncio.ensure_future(stage.caller.send_to_all(Look(1), timeout=1.0))
    await eventually(lambda: ("a", 1) in stage.ran)
    stage.silence("a")
    gathered = await gathering
    assert {type(error) for error in gathered.silent.values()} == {CatgaTimeoutError}


def test_a_refused_retry_is_paid_back_up_to_the_reserve() -> None:
    budget = RetryBudget(share=0.0, reserve=1.0)
    assert [budget.withdraw(), budget.withdraw()] == [True, False]
    budget.refund()
    budget.refund()
    assert [budget.withdraw(), budget.withdraw()] == [True, False]


def test_a_pace_lets_a_burst_go_and_spreads_the_rest() -> None:
    pace = Pace(rate=10.0, burst=2)
    assert [pace.wait(100.0, 200.0) for _ in range(5)] == pytest.approx([0.0, 0.0, 0.1, 0.2, 0.3])
    assert pace.wait(200.0, 300.0) == 0.0


def test_what_would_come_too_late_takes_no_turn() -> None:
    pace = Pace(rate=10.0, burst=1)
    assert pace.wait(100.0, 200.0) == 0.0
    assert [pace.wait(100.0, 100.05) for _ in range(3)] == [None, None, None]
    assert pace.wait(100.0, 200.0) == pytest.approx(0.1)
