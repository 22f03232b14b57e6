"""What nodes tell of themselves."""

from dataclasses import dataclass

import pytest

from catga import Mediator, Request, add_cluster
from catga.cluster.stats import Stats
from catga.errors import ClosedError
from catga.rpc.tally import BOUNDS, Tally


@dataclass(frozen=True)
class Divide(Request[float]):
    by: float


def mediator() -> Mediator:
    app = Mediator()

    @app.handler
    async def divide(request: Divide) -> float:
        return 1 / request.by

    return app


@pytest.mark.parametrize("index", range(len(BOUNDS)))
def test_a_latency_is_in_the_bucket_whose_bound_it_does_not_exceed(index: int) -> None:
    tally = Tally()
    for seconds in (BOUNDS[index] * 0.9, BOUNDS[index], BOUNDS[index] * 1.1):
        tally.add(seconds, ok=True)
    assert tally.histogram[index : index + 2] == [2, 1]


def test_a_latency_out_of_all_bounds_is_counted() -> None:
    tally = Tally()
    for seconds in (-1.0, 0.0, 1e12):
        tally.add(seconds, ok=False)
    assert (tally.errors, tally.histogram[0], tally.histogram[-1]) == (3, 2, 1)


async def test_every_node_tells_its_calls_and_errors_and_does_not_announce_that_it_does() -> None:
    async with add_cluster(mediator(), "memory://stats", node_id="alpha") as alpha:
        async with add_cluster(Mediator(), "memory://stats", node_id="caller") as caller:
            assert (await caller.send(Divide(2.0))).unwrap() == 0.5
            assert not (await caller.send(Divide(0.0))).is_success
            assert not (await alpha.send(Divide(0.0))).is_success
            stats = (await caller.send_to_node(Stats(), "alpha")).unwrap()
            own = (await caller.send_to_node(Stats(detail=False), "caller")).unwrap()
        assert alpha.current_node.handles == (f"{Divide.__module__}.Divide",)
    (name, divide), *rest = stats.types.items()
    assert (name, rest) == (f"{Divide.__module__}.Divide", [])
    assert (divide.calls, divide.errors, sum(divide.histogram.values())) == (3, 2, 3)
    assert (own.node_id, own.types) == ("caller", {})


async def test_a_failover_is_counted_by_the_caller() -> None:
    nodes = [add_cluster(mediator(), "memory://moved", node_id=node_id) for node_id in ("alpha", "beta")]
    async with nodes[0] as alpha, nodes[1], add_cluster(Mediator(), "memory://moved", node_id="caller") as caller:
        alpha._node.peer.server.refuse(ClosedError("busy"))
        results = [await caller.send(Divide(2.0)) for _ in range(4)]
        own = (await caller.send_to_node(Stats(), "caller")).unwrap()
    again = sum(result.metadata.attempts - 1 for result in results)
    assert [t.failovers for t in own.types.values()] == [again]
    assert again >= 1
