"""An event for a service whose only process is killed, and started again."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from nodes import HERE, members, process
from subscriber import Paid

from catga import DistributedMediator, Mediator, add_cluster
from catga.testing import eventually


@pytest.fixture(params=["nats", "redis"])
def url(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


@asynccontextmanager
async def billing(url: str, prefix: str, node_id: str, log: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    async with process(HERE / "subscriber.py", url, prefix, node_id, str(log)) as child:
        assert child.stdout is not None
        assert await child.stdout.readline() == b"ready\n"
        yield child


async def begun(publisher: DistributedMediator, event: Paid) -> "asyncio.Task[bool]":
    """Publish `event`, which waits for the service."""

    async def publish() -> bool:
        return (await publisher.publish(event)).is_success

    task = asyncio.create_task(publish())
    await asyncio.sleep(0)
    assert not task.done()
    return task


@pytest.mark.usefixtures("settled_soon")
@pytest.mark.parametrize("node_id", ["billing", "billing-2"], ids=["same id", "another id"])
async def test_what_is_published_while_the_only_node_of_a_service_is_down_runs_once_it_is_back(
    url: str, node_id: str, tmp_path: Path
) -> None:
    log, prefix = tmp_path / "log", f"t-{uuid.uuid4().hex[:12]}"
    shop = add_cluster(Mediator(), url, prefix=prefix, node_id="shop", service="shop", probe_interval=0.2)
    async with shop:
        async with billing(url, prefix, "billing", log) as child:
            await eventually(lambda: members(shop) == ["billing", "shop"])
            child.kill()
            await child.wait()
            await eventually(lambda: members(shop) == ["shop"])  # the broker knows: until then it may be in doubt
            while_suspect = await begun(shop, Paid(1))
            await eventually(lambda: [node.node_id for node in shop.get_nodes()] == ["shop"])
            once_gone = await begun(shop, Paid(2))
        async with billing(url, prefix, node_id, log):
            assert await while_suspect
            assert await once_gone
            assert (await shop.publish(Paid(3))).is_success
    assert sorted(log.read_text().split()) == ["1", "2", "3"]
