"""The same modules are three services of two processes each, and one process."""

import asyncio
import os
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import chain
import pytest
from chain import Mails, PlaceOrder

import catga
from catga import Mediator, add_cluster
from catga.testing.waiting import eventually

SOURCE = str(Path(catga.__file__).parent.parent)


@asynccontextmanager
async def service(name: str, url: str, prefix: str) -> AsyncIterator[None]:
    """`catga run` of that service, with two workers."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "catga.cli", "run", f"chain:{name}", "--workers", "2", "--service", name),
        cwd=Path(__file__).parent,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": SOURCE, "CATGA_URL": url, "CATGA_PREFIX": prefix},
    )
    try:
        yield
    finally:
        child.terminate()
        await child.wait()


@pytest.mark.parametrize("broker", ["nats", "redis"])
async def test_three_services_of_two_processes_call_each_other(broker: str, request: pytest.FixtureRequest) -> None:
    url, prefix = request.getfixturevalue(f"{broker}_url"), f"t{uuid.uuid4().hex[:12]}"
    async with AsyncExitStack() as stack:
        for name in ("orders", "billing", "mail"):
            await stack.enter_async_context(service(name, url, prefix))
        caller = await stack.enter_async_context(add_cluster(Mediator(), url, node_id="caller", prefix=prefix))
        await eventually(lambda: len(caller.get_nodes()) == 7)
        for number in range(1, 21):
            assert (await caller.send(PlaceOrder(number))).unwrap() == f"{number} for {10 * number}"
        sent = [text for answer in (await caller.send_to_all(Mails())).values.values() for text in answer]
        assert sorted(sent) == sorted(f"{what} {n}" for what in ("placed", "charged") for n in range(1, 21))


async def test_so_do_their_modules_in_one_process() -> None:
    app = chain.whole()
    chain.sent.clear()
    for number in (1, 2):
        assert (await app.send(PlaceOrder(number))).unwrap() == f"{number} for {10 * number}"
    assert (await app.send(Mails())).unwrap() == ["charged 1", "placed 1", "charged 2", "placed 2"]
