"""How calls become tasks: alone, or sharing one, and never to be told apart by their handlers."""

import asyncio
import contextvars
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from catga import Request
from catga.codec import Codec
from catga.result import CatgaResult, Success
from catga.rpc.runner import EAGER, Admitted, Endpoint, Runner
from catga.rpc.tally import Tally
from catga.testing import eventually

Handler = Callable[[int], Awaitable[object]]
mark: contextvars.ContextVar[int] = contextvars.ContextVar("mark", default=0)


class Ask(msgspec.Struct, Request[None], frozen=True):
    """A request."""


class Bench:
    """A runner, and what ran in it."""

    def __init__(self) -> None:
        self.exits: list[BaseException] = []
        self.runner = Runner(self._on_end, lambda call: self.late.append(call.call_id), self.exits.append, lambda: None)
        self.late: list[int] = []
        self.ended: list[int] = []
        self.tasks: dict[int, asyncio.Task[Any] | None] = {}

    def _on_end(self, call: Admitted, result: CatgaResult[Any] | None) -> float:
        self.ended.append(call.call_id)
        return time.perf_counter()

    def endpoint(self, handler: Handler) -> Endpoint:
        async def run(number: int) -> CatgaResult[object]:
            self.tasks[number] = asyncio.current_task()
            return Success(await handler(number))

        return Endpoint(Codec(Ask), run, Tally())

    def start(self, endpoint: Endpoint, *numbers: int) -> list[Admitted]:
        calls = [Admitted(("box", n), n, endpoint, n, 0.0, math.inf, math.inf) for n in numbers]
        for call in calls:
            self.runner.start(call)
        return calls

    async def ends(self, *numbers: int) -> None:
        await eventually(lambda: sorted(self.ended) == sorted(numbers))


@pytest.fixture
async def bench() -> Bench:
    return Bench()


async def test_handlers_that_do_not_wait_share_one_task_in_their_order(bench: Bench) -> None:
    async def handler(number: int) -> None:
        assert asyncio.current_task() is not None

    endpoint = bench.endpoint(handler)
    bench.start(endpoint, *range(10))
    assert bench.ended == []  # never in the caller's step
    await bench.ends(*range(10))
    assert bench.ended == list(range(10))
    assert len(set(bench.tasks.values())) == 1
    assert not endpoint.tally.waits


async def test_a_handler_that_waits_holds_up_nobody(bench: Bench) -> None:
    gate = asyncio.Event()

    async def handler(number: int) -> None:
        if number == 1:
            await gate.wait()

    endpoint = bench.endpoint(handler)
    bench.start(endpoint, 0, 1, 2, 3)
    await bench.ends(0, 2, 3)
    gate.set()
    await bench.ends(0, 1, 2, 3)


async def test_many_that_wait_all_begin_within_a_turn_or_two(bench: Bench) -> None:
    begun: list[int] = []
    gate = asyncio.Event()

    async def handler(number: int) -> None:
        begun.append(number)
        await gate.wait()

    endpoint = bench.endpoint(handler)
    for numbers in (range(50), range(50, 100)):  # the second time it is known that they wait
        bench.start(endpoint, *numbers)
        for _ in range(3):
            await asyncio.sleep(0)
        assert begun == list(range(len(begun)))
        assert len(begun) == numbers.stop
    assert endpoint.tally.waits
    assert len(set(bench.tasks.values())) == 100
    gate.set()
    await bench.ends(*range(100))
    assert endpoint.tally.waits


async def test_a_handler_that_waits_no_more_shares_again(bench: Bench) -> None:
    waits = True

    async def handler(number: int) -> None:
        if waits:
            await asyncio.sleep(0)

    endpoint = bench.endpoint(handler)
    bench.start(endpoint, 0)
    await bench.ends(0)
    assert endpoint.tally.waits
    waits = False
    bench.start(endpoint, 1)
    await bench.ends(0, 1)
    assert not endpoint.tally.waits
    bench.start(endpoint, 2, 3)
    await bench.ends(0, 1, 2, 3)
    assert bench.tasks[2] is bench.tasks[3]


async def test_what_a_handler_leaves_in_its_context_is_not_seen_by_the_next(bench: Bench) -> None:
    seen: list[int] = []

    async def handler(number: int) -> None:
        seen.append(mark.get())
        if number % 2:
            mark.set(number)

    mark.set(-1)
    bench = Bench()  # whose calls begin with that
    bench.start(bench.endpoint(handler), *range(6))
    mark.set(-2)
    await bench.ends(*range(6))
    assert seen == [-1] * 6
    assert len(set(bench.tasks.values())) == 3  # sharing ends behind 1, 3 and 5


async def test_a_handler_that_cancels_its_own_task_cancels_no_other(bench: Bench) -> None:
    async def handler(number: int) -> None:
        task = asyncio.current_task()
        assert task is not None
        assert not task.cancelling()
        if number == 1:
            task.cancel()

    bench.start(bench.endpoint(handler), *range(4))
    await bench.ends(*range(4))


async def test_time_outs_and_task_groups_work_in_a_shared_task(bench: Bench) -> None:
    outcomes: dict[int, str] = {}

    async def late() -> None:
        await asyncio.sleep(60)

    async def handler(number: int) -> None:
        try:
            async with asyncio.timeout(0.01), asyncio.TaskGroup() as group:
                if number % 2:
                    group.create_task(late())
            outcomes[number] = "ended"
        except TimeoutError:
            outcomes[number] = "timed out"

    bench.start(bench.endpoint(handler), *range(6))
    await bench.ends(*range(6))
    assert outcomes == {n: "timed out" if n % 2 else "ended" for n in range(6)}


async def test_the_end_of_a_shared_task_ends_only_the_call_that_ran(bench: Bench) -> None:
    async def handler(number: int) -> None:
        if number == 1:
            raise asyncio.CancelledError  # as `Runner` promises nothing to who raises through it

    bench.start(bench.endpoint(handler), *range(4))
    await bench.ends(*range(4))


async def test_a_call_that_is_withdrawn_does_not_run(bench: Bench) -> None:
    async def handler(number: int) -> None:
        pass

    calls = bench.start(bench.endpoint(handler), 0, 1, 2)
    bench.runner.withdraw(calls[1])
    await bench.ends(0, 2)


class Cpu:
    """The time, which passes only while a handler burns it; and how many handlers ran in each turn of the loop."""

    def __init__(self) -> None:
        self.now = 0.0
        self.runs = [0]

    def __call__(self) -> float:
        return self.now

    def burn(self) -> None:
        self.now += 0.004
        self.runs[-1] += 1

    def turn(self) -> None:
        self.runs.append(0)
        asyncio.get_running_loop().call_soon(self.turn)


@pytest.fixture
async def cpu(monkeypatch: pytest.MonkeyPatch) -> Cpu:
    cpu = Cpu()
    for module in ("outbox", "runner", "server"):
        monkeypatch.setattr(f"catga.rpc.{module}.perf_counter", cpu)
    cpu.turn()
    return cpu


async def test_the_loop_gets_a_turn_between_handlers_that_burn_cpu(bench: Bench, cpu: Cpu) -> None:
    async def handler(number: int) -> None:
        cpu.burn()

    endpoint = bench.endpoint(handler)
    bench.runner._on_end = lambda call, result: (bench.ended.append(call.call_id), cpu.now)[1]
    bench.start(endpoint, *range(60))
    await bench.ends(*range(60))
    assert bench.ended == list(range(60))
    assert max(cpu.runs) == 2  # one after 0 ms of the slice, one after 4


async def test_the_loop_gets_a_turn_between_handlers_that_burn_cpu_and_then_wait(bench: Bench, cpu: Cpu) -> None:
    async def handler(number: int) -> None:
        cpu.burn()
        await asyncio.sleep(0)

    endpoint = bench.endpoint(handler)
    bench.runner._on_end = lambda call, result: (bench.ended.append(call.call_id), cpu.now)[1]
    for numbers in (range(100), range(100, 200)):  # the second time it is known how long they take
        cpu.runs = [0]
        bench.start(endpoint, *numbers)
        await eventually(lambda last=numbers.stop: len(bench.ended) == last)  # type: ignore[misc]
    assert max(cpu.runs) <= 3


async def test_calls_whose_deadline_has_passed_do_not_begin(bench: Bench) -> None:
    async def handler(number: int) -> None: ...

    endpoint = bench.endpoint(handler)
    late = [Admitted(("box", n), n, endpoint, n, 0.0, math.inf, time.perf_counter() - 1) for n in range(3)]
    for call in late:
        bench.runner.start(call)
    bench.start(endpoint, 3)
    await bench.ends(3)
    assert bench.late == [0, 1, 2]


async def test_a_call_does_not_begin_if_its_deadline_passes_between_its_task_and_its_first_step(
    bench: Bench, cpu: Cpu
) -> None:
    async def handler(number: int) -> None:
        await asyncio.sleep(0)

    endpoint = bench.endpoint(handler)
    bench.start(endpoint, 0)
    await bench.ends(0)  # it is known now that the handler suspends
    bench.runner.start(Admitted(("box", 1), 1, endpoint, 1, 0.0, math.inf, cpu.now + 1.0))
    cpu.now += 2.0  # as when the process is stopped
    await eventually(lambda: bench.late == [1] or bench.ended == [0, 1])
    assert (bench.late == [1]) is not EAGER  # an eager task has begun already
