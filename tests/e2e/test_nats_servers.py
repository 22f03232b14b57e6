"""Several NATS servers in one URL."""

import asyncio
from collections.abc import Iterator

import msgspec
import pytest
from click.testing import CliRunner

from catga import Mediator, Request, add_cluster
from catga.backends.nats.client import address
from catga.cli.app import cli
from catga.testing.servers import NatsServer, free_port
from catga.testing.waiting import eventually


class Where(msgspec.Struct, Request[str], frozen=True):
    pass


def app(node_id: str) -> Mediator:
    mediator = Mediator()

    @mediator.handler
    def where(request: Where) -> str:
        return node_id

    return mediator


@pytest.fixture
def pair() -> Iterator[tuple[NatsServer, NatsServer]]:
    """A cluster of two servers, with a user."""
    routes = [free_port(), free_port()]
    listed = ",".join(f"nats://127.0.0.1:{port}" for port in routes)

    def server(port: int) -> NatsServer:
        cluster = ("--cluster_name", "pair", "--cluster", f"nats://127.0.0.1:{port}", "--routes", listed)
        return NatsServer(user="orders", password="p/w", args=cluster)

    with server(routes[0]) as first, server(routes[1]) as second:
        yield first, second


@pytest.mark.parametrize(
    ("url", "servers", "credentials"),
    [
        ("nats://a:4222", ["nats://a:4222"], {}),
        ("tls://a:1,b:2", ["tls://a:1", "tls://b:2"], {}),
        ("nats://t%20k@a,b:2", ["nats://a", "nats://b:2"], {"token": "t k"}),
        ("nats://u:p%2Fw@a:1,nats://u:p%2Fw@b:2", ["nats://a:1", "nats://b:2"], {"user": "u", "password": "p/w"}),
    ],
)
def test_an_address_has_servers_and_credentials(url: str, servers: list[str], credentials: dict[str, str]) -> None:
    assert address(url) == (servers, credentials)


@pytest.mark.parametrize("url", ["nats://", "nats://u:secret@a,", "tls://a,,b", "nats://u:secret@,b"])
def test_a_server_without_a_host_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="without a host") as raised:
        add_cluster(Mediator(), url)
    assert "secret" not in str(raised.value)


async def test_a_node_starts_while_one_of_its_servers_is_down_and_moves_when_its_own_dies(
    pair: tuple[NatsServer, NatsServer],
) -> None:
    first, second = pair
    url = f"nats://orders:p%2Fw@127.0.0.1:{free_port()},127.0.0.1:{first.port},127.0.0.1:{second.port}"
    async with add_cluster(app("a"), url, node_id="a") as a, add_cluster(app("b"), url, node_id="b") as b:
        await eventually(lambda: len(a.get_nodes()) == len(b.get_nodes()) == 2, 30)
        first.kill()

        async def reach_each_other() -> bool:
            results = await asyncio.gather(a.send_to_node(Where(), "b"), b.send_to_node(Where(), "a"))
            return all(result.is_success for result in results)

        await eventually(reach_each_other, 60)  # one may have been declared gone, and come back


def test_doctor_takes_the_server_that_is_up(pair: tuple[NatsServer, NatsServer]) -> None:
    first, _ = pair
    url = f"nats://orders:p%2Fw@127.0.0.1:{free_port()},127.0.0.1:{first.port}"
    result = CliRunner().invoke(cli, ["doctor", "--url", url, "--prefix", "nobody"])
    assert "reachable" in result.output
    assert result.exit_code == 0, result.output
    assert "p%2Fw" not in result.output
