"""A node that only observes."""

from dataclasses import dataclass

import pytest

from catga import DistributedMediator, Mediator, Request, add_cluster
from catga.node import NodeState
from catga.testing.servers import NatsServer
from catga.testing.waiting import eventually


@dataclass(frozen=True)
class Who(Request[str]):
    pass


def node(url: str, node_id: str, prefix: str) -> DistributedMediator:
    app = Mediator()

    @app.handler
    def who(request: Who) -> str:
        return node_id

    return add_cluster(app, url, node_id=node_id, prefix=prefix, probe_interval=0.2)


def observer(url: str, prefix: str) -> DistributedMediator:
    return add_cluster(Mediator(), url, prefix=prefix, probe_interval=0.2, observe_only=True)


def ids(mediator: DistributedMediator) -> list[str]:
    return [n.node_id for n in mediator.get_nodes()]


@pytest.fixture(params=["nats_url", "redis_url"])
def url(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(request.param)
    return found


async def test_an_observer_sees_and_calls_the_members_and_is_none(url: str) -> None:
    async with node(url, "alpha", "obs1") as alpha, observer(url, "obs1") as watching:
        assert ids(watching) == ["alpha"]
        assert (await watching.send(Who())).unwrap() == "alpha"
        async with node(url, "beta", "obs1") as beta:
            await eventually(lambda: ids(watching) == ["alpha", "beta"])
            assert ids(beta) == ["alpha", "beta"]
        await eventually(lambda: ids(watching) == ["alpha"] and ids(alpha) == ["alpha"])


async def test_a_lone_observer_answers_no_joiner_and_sees_nobody(url: str) -> None:
    async with observer(url, "obs2") as watching:
        assert ids(watching) == []
        async with node(url, "alpha", "obs2") as alpha:
            assert ids(alpha) == ["alpha"]
            await eventually(lambda: ids(watching) == ["alpha"])


async def test_an_observer_comes_back_after_a_restart_of_the_broker() -> None:
    with NatsServer() as server:
        async with node(server.url, "alpha", "obs3") as alpha, observer(server.url, "obs3") as watching:
            server.restart()
            assert (await watching.send(Who())).unwrap() == "alpha"  # once both have their links back
            async with node(server.url, "beta", "obs3"):
                await eventually(lambda: ids(watching) == ["alpha", "beta"], within=30)
                assert {n.state for n in alpha.get_nodes()} == {NodeState.ALIVE}
                assert (await watching.send(Who())).is_success


async def test_a_fenced_node_does_not_tell_joiners_that_it_lives(nats_url: str) -> None:
    async with node(nats_url, "twin", "obs4") as old, node(nats_url, "twin", "obs4") as new:
        await eventually(lambda: [n.incarnation for n in old.get_nodes()] == [new.current_node.incarnation])
        for _ in range(8):  # whichever of the two answers
            async with observer(nats_url, "obs4") as watching:
                assert [n.incarnation for n in watching.get_nodes()] == [new.current_node.incarnation]
                assert (await watching.send(Who())).is_success
