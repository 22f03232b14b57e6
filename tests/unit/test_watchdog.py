"""The handler that holds the event loop is named, while it does."""

import asyncio
import logging
import sys
import time
from dataclasses import dataclass

import pytest

from catga import Mediator, Request, add_cluster
from catga.cluster import watchdog
from catga.testing import eventually

DEADLINE = 30.0


@dataclass(frozen=True)
class Innocent(Request[int]):
    pass


@dataclass(frozen=True)
class Guilty(Request[int]):
    pass


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.catga_handler for record in caplog.records if hasattr(record, "catga_handler")]


def hold(caplog: pytest.LogCaptureFixture, times: int = 1) -> int:
    """Hold the loop until that was noticed, or much longer."""
    end = time.monotonic() + DEADLINE
    while len(told(caplog)) < times and time.monotonic() < end:
        time.sleep(0.01)
    return 1


def made(caplog: pytest.LogCaptureFixture, *, plain: bool) -> Mediator:
    app = Mediator()

    @app.handler
    async def innocent(message: Innocent) -> int:
        await asyncio.sleep(0)
        return 1

    if plain:

        @app.handler
        def guilty(message: Guilty) -> int:
            return hold(caplog)

    else:

        @app.handler
        async def guilty(message: Guilty) -> int:
            await asyncio.sleep(0.01)
            return hold(caplog)

    return app


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("caller", ["worker", "other"])
async def test_of_several_handlers_the_one_that_blocks_is_named(
    caplog: pytest.LogCaptureFixture, caller: str, plain: bool
) -> None:
    url = f"memory://watchdog-{caller}-{plain}"
    async with (
        add_cluster(made(caplog, plain=plain), url, node_id="worker") as worker,
        add_cluster(Mediator(), url, node_id="other") as other,
    ):
        node = {"worker": worker, "other": other}[caller]
        results = await asyncio.gather(
            *(node.send(Innocent()) for _ in range(20)),
            node.send(Guilty()),
            *(node.send(Innocent()) for _ in range(20)),
        )
    assert all(result.is_success for result in results)
    (record,) = [record for record in caplog.records if hasattr(record, "catga_handler")]
    assert record.name == "catga.handlers"
    assert record.levelno == logging.WARNING
    assert record.catga_handler.endswith("guilty")
    assert "in_thread=True" in record.getMessage()
    assert f"{__file__}:" in record.getMessage()


async def test_a_handler_is_named_once_in_a_while(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, times = Mediator(), 1

    @app.handler
    def guilty(message: Guilty) -> int:
        return hold(caplog, times)

    async with add_cluster(app, "memory://watchdog-often", node_id="worker") as node:
        (await node.send(Guilty())).unwrap()
        (watching,) = watchdog._watchdogs.values()
        watching._tell(told(caplog)[0], sys._getframe())
        assert len(told(caplog)) == 1
        monkeypatch.setattr(watchdog, "SILENCE", 0.0)
        times = 2
        (await node.send(Guilty())).unwrap()
        assert len(told(caplog)) == 2


def burn() -> None:
    """Hold the loop for a moment: many of these hold it for long together."""
    time.sleep(0.01)


async def test_many_short_handlers_are_blamed_for_nothing(caplog: pytest.LogCaptureFixture) -> None:
    app = Mediator()

    @app.handler
    async def innocent(message: Innocent) -> int:
        burn()
        await asyncio.sleep(0)
        burn()
        return 1

    async with add_cluster(app, "memory://watchdog-many", node_id="worker") as node:
        results = await asyncio.gather(*(node.send(Innocent()) for _ in range(150)))
    assert all(result.is_success for result in results)
    assert told(caplog) == []


async def test_nobody_is_watched_once_the_nodes_have_left() -> None:
    loop, url = asyncio.get_running_loop(), "memory://watchdog-ends"
    async with add_cluster(Mediator(), url, node_id="a"):
        async with add_cluster(Mediator(), url, node_id="b"):
            assert len(watchdog._watchdogs[loop].registries) == 2
        assert len(watchdog._watchdogs[loop].registries) == 1
    assert loop not in watchdog._watchdogs
    await eventually(lambda: watchdog._watchdogs == {})
