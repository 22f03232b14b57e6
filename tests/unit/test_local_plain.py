"""Plain functions that a node calls for itself: what the node learns of such a call."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from catga import DistributedMediator, Failure, Mediator, NodeInfo, Request, add_cluster
from catga.errors import CatgaTimeoutError
from catga.routing import Candidates, NodeStats

SLOW = 0.02


@dataclass(frozen=True)
class Ask(Request[int]):
    number: int = 1


class Spy:
    """A strategy that shows what is known of the nodes."""

    def __init__(self) -> None:
        self.candidates = Candidates()

    def select(self, nodes: Sequence[NodeInfo], message: object) -> NodeInfo:
        self.candidates = Candidates.of(nodes)
        return nodes[0]

    @property
    def stats(self) -> NodeStats:
        return self.candidates.stats["lone"]


def lone(app: Mediator, spy: Spy) -> DistributedMediator:
    return add_cluster(app, f"memory://{id(app)}", node_id="lone", routing=spy)


@pytest.mark.parametrize("fails", [False, True])
async def test_a_slow_function_is_slow_whether_it_fails_or_not(fails: bool) -> None:
    app, spy = Mediator(), Spy()

    @app.handler
    def ask(request: Ask) -> int:
        time.sleep(SLOW)
        if fails:
            raise ValueError
        return request.number

    async with lone(app, spy) as node:
        for _ in range(2):  # the first finds out how the handler is called
            assert isinstance(await node.send(Ask()), Failure) is fails
            assert spy.stats.inflight == 0
            assert spy.stats.latency > SLOW / 2


async def test_a_success_pardons_the_node() -> None:
    app, spy = Mediator(), Spy()

    @app.handler
    def ask(request: Ask) -> int:
        return request.number

    async with lone(app, spy) as node:
        assert (await node.send(Ask())).is_success
        outliers = node._joined()._outliers
        outliers.ended(spy.stats, spy.stats.started(), Failure(CatgaTimeoutError("late")))
        assert outliers.suspected
        assert (await node.send(Ask())).is_success
        assert not outliers.suspected
        assert spy.stats.inflight == 0
