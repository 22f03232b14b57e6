"""Plain functions run in the receive path, but not for longer than a slice of the loop's turn."""

import asyncio
from collections.abc import Callable

import msgspec
import pytest

from catga import Mediator, Request, add_cluster
from catga.errors import OverloadedError
from catga.result import Failure


class Add(msgspec.Struct, Request[int], frozen=True):
    number: int


class Cpu:
    """The time, which passes only while a handler burns it."""

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
    return cpu


def app(work: Callable[[], None]) -> Mediator:
    made = Mediator()

    @made.handler
    def add(request: Add) -> int:
        work()
        return request.number

    return made


async def test_the_loop_gets_a_turn_after_a_slice_of_a_large_batch(cpu: Cpu) -> None:
    url = "memory://slices"
    async with add_cluster(app(cpu.burn), url, node_id="worker"), add_cluster(Mediator(), url, node_id="c") as caller:
        cpu.turn()
        results = await asyncio.gather(*(caller.send(Add(number)) for number in range(100)))
        assert [result.unwrap() for result in results] == list(range(100))
        assert max(cpu.runs) <= 4  # two in the receive path, two in the runner


async def test_what_is_left_after_the_slice_is_admitted_like_any_other_call(cpu: Cpu) -> None:
    url = "memory://slices-full"
    worker = add_cluster(app(cpu.burn), url, node_id="worker", max_concurrency=3, max_queue=4)
    async with worker, add_cluster(Mediator(), url, node_id="c") as caller:
        gathered = await asyncio.gather(*(caller.send_to_node(Add(number), "worker") for number in range(64)))
        refused = [result for result in gathered if isinstance(result, Failure)]
        assert refused
        assert {type(result.error) for result in refused} == {OverloadedError}
