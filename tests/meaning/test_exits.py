"""A handler that ends the program: its caller is answered, the node leaves in order, and then the process ends."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest
from leaver import Leave, Quit, Slow, app

import catga
from catga import Mediator, add_cluster
from catga.errors import HandlerError
from catga.testing.waiting import eventually

SOURCE = str(Path(catga.__file__).parent.parent)


async def leaver(url: str, loop: str, how: str = "") -> asyncio.subprocess.Process:
    """A process that has joined."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("leaver.py")),
        url,
        loop,
        how,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": SOURCE},
    )
    assert child.stdout is not None
    assert await child.stdout.readline() == b"ready\n"
    return child


@pytest.mark.parametrize(("how", "status"), [("exit", 3), ("interrupt", -2)])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_a_node_answers_and_finishes_what_it_took_before_it_ends(
    nats_url: str, loop: str, how: str, status: int
) -> None:
    child = await leaver(nats_url, loop)
    async with add_cluster(Mediator(), nats_url, node_id="caller") as caller, caller.watch() as changes:
        slow = asyncio.create_task(caller.send(Slow(0.5)))
        await eventually(lambda: caller.counters["pending_calls"] == 1)
        result = await caller.send(Leave(how))
        assert isinstance(result.error, HandlerError)
        assert (await slow).unwrap() == "done"
        async for change in changes:
            if change.reason is not None:
                assert (change.node.node_id, change.reason.value) == ("leaver", "drained")
                break
    await child.communicate()
    assert child.returncode in (status, 130 if how == "interrupt" else status)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_a_call_on_the_own_node_is_answered_too(nats_url: str, loop: str) -> None:
    child = await leaver(nats_url, loop, "exit")
    out, _ = await child.communicate()
    assert b"SystemExit: 3" in out
    assert child.returncode == 3


async def test_a_blocking_function_ends_the_program_as_others_do(nats_url: str) -> None:
    child = await leaver(nats_url, "asyncio")
    async with add_cluster(Mediator(), nats_url, node_id="caller") as caller:
        assert isinstance((await caller.send(Quit(4))).error, HandlerError)
    await child.communicate()
    assert child.returncode == 4


@pytest.mark.parametrize("message", [Leave("exit"), Quit(3)])
async def test_in_one_process_it_is_raised_to_whoever_sends(message: Leave | Quit) -> None:
    with pytest.raises(SystemExit):
        await app.send(message)


async def test_an_exit_while_the_node_stops_waits_for_that(nats_url: str) -> None:
    child = await leaver(nats_url, "asyncio", "")
    async with add_cluster(Mediator(), nats_url, node_id="caller") as caller:
        slow = asyncio.create_task(caller.send(Slow(1.0)))
        exits = asyncio.create_task(caller.send(Leave("exit after a moment")))
        await eventually(lambda: caller.counters["pending_calls"] == 2)
        child.send_signal(signal.SIGUSR1)
        assert (await slow).unwrap() == "done"
        assert isinstance((await exits).error, HandlerError)
    await child.communicate()
    assert child.returncode == 3
