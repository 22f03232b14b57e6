"""The accounts that the documents give are enough for a cluster, and for no more."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from documents import blocks

from catga import Mediator, Request, add_cluster
from catga.cli.checks import Level
from catga.cli.checks.redis import examine
from catga.cli.options import Where
from catga.routing import Queue
from catga.testing.servers import NatsServer, RedisServer, Server


@dataclass(frozen=True)
class Double(Request[int]):
    number: int


async def check_cluster(url: str, **options: Any) -> None:
    app = Mediator()
    app.handles(Double)(lambda request: 2 * request.number)
    async with (
        add_cluster(Mediator(), url, node_id="caller", **options) as caller,
        add_cluster(app, url, node_id="worker", queues=not options, **options),
    ):
        assert (await caller.send(Double(21))).unwrap() == 42
        if not options:  # signed batches have no queues
            caller.route(Double, Queue())
            assert (await caller.send(Double(4))).unwrap() == 8
        assert [node.node_id for node in caller.get_nodes()] == ["caller", "worker"]


def credentials(server: Server) -> str:
    scheme, _, rest = server.url.partition("://")
    return f"{scheme}://orders:secret@{rest.rpartition('@')[2]}"


async def test_the_nats_account_of_the_docs_is_enough(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = tmp_path / "nats.conf"
    config.write_text(blocks("docs/security.md", "conf")[0].text)
    with NatsServer(args=["-c", str(config)]) as server:
        await check_cluster(credentials(server))
    assert "forbids" not in caplog.text


async def test_the_nats_account_for_the_bucket_is_enough(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = tmp_path / "nats.conf"
    config.write_text(blocks("docs/backends/nats.md", "conf")[0].text)
    with NatsServer(jetstream=True, args=["-c", str(config)]) as server:
        await check_cluster(credentials(server), discovery="kv")
    assert "forbids" not in caplog.text


async def test_the_nats_account_for_the_bucket_may_have_an_inbox_prefix_of_its_own(tmp_path: Path) -> None:
    config = tmp_path / "nats.conf"
    config.write_text(blocks("docs/backends/nats.md", "conf")[0].text.replace("_INBOX.>", "box.orders.>"))
    with NatsServer(jetstream=True, args=["-c", str(config)]) as server:
        await check_cluster(credentials(server), discovery="kv", inbox_prefix="box.orders")


async def test_the_redis_user_of_the_docs_is_enough(caplog: pytest.LogCaptureFixture) -> None:
    user = blocks("docs/security.md", "acl")[0].text.split()
    with RedisServer(args=["--" + user[0], *user[1:]]) as server:
        await check_cluster(credentials(server))
        findings = [finding async for finding in examine(Where(credentials(server), "catga", 5.0))]
    assert caplog.text == ""
    assert [finding for finding in findings if finding.level in (Level.PROBLEM, Level.WARNING)] == []


async def test_doctor_advises_the_redis_user_of_the_docs() -> None:
    user = blocks("docs/security.md", "acl")[0].text.split()
    with RedisServer(args=["--user", "orders", "on", ">secret", "+@connection"]) as server:
        findings = [finding async for finding in examine(Where(credentials(server), "catga", 5.0))]
    advised = [finding.fix for finding in findings if finding.check == "permissions"]
    assert advised == ["ACL: " + " ".join(user[4:])]
