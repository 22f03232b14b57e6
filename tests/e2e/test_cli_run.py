"""``catga run``: processes, signals, crashes, and the user's mistakes."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest
from cli_process import HERE, Catga, caller, member
from cli_shop import CreateOrder, Die, Work

from catga import DistributedMediator
from catga.cluster.stats import Stats
from catga.errors import MaybeExecutedError
from catga.node import LeftReason, NodeChangeType
from catga.testing.servers import NatsServer, free_port
from catga.testing.waiting import eventually

RUN = ("run", "cli_shop:mediator", "--node-id", "shop")


async def running(node: DistributedMediator, calls: int) -> None:
    """Wait until so many calls run on the nodes."""

    async def they_run() -> bool:
        stats = [(await node.send_to_node(Stats(), n.node_id)).unwrap() for n in node.get_nodes()]
        return sum(s.inflight for s in stats) == calls

    await eventually(they_run)


@pytest.mark.parametrize(("args", "ids"), [((), ["shop"]), (("--workers", "2"), ["shop-1", "shop-2"])])
async def test_sigterm_during_running_requests_loses_none(
    nats_url: str, tmp_path: Path, args: tuple[str, ...], ids: list[str]
) -> None:
    prefix = f"term{len(ids)}"
    with Catga(tmp_path, *RUN, *args, "--url", nats_url, "--prefix", prefix) as run:
        async with caller(nats_url, prefix) as node:
            watcher = node.watch()
            await eventually(lambda: [n.node_id for n in node.get_nodes()] == ids)
            calls = [asyncio.create_task(node.send(Work(1.0))) for _ in range(20)]
            await running(node, len(calls))
            run.terminate()
            assert {(await call).unwrap_or("lost") for call in calls} == {"done"}
            assert await run.ended() == 0, run.err
            await eventually(lambda: not node.get_nodes())
            await watcher.aclose()
    assert "Traceback" not in run.err


async def test_a_second_signal_stops_at_once_and_the_callers_are_told(nats_url: str, tmp_path: Path) -> None:
    with Catga(tmp_path, *RUN, "--url", nats_url, "--prefix", "twice") as run:
        async with caller(nats_url, "twice") as node:
            await eventually(lambda: member(node, "shop"))
            call = asyncio.create_task(node.send(Work(25.0)))
            await running(node, 1)
            run.terminate()
            await eventually(lambda: "draining" in run.err)
            run.terminate()
            result = await call
            assert not result.is_success
            assert await run.ended() == 1
    assert "Traceback" not in run.err


@pytest.mark.parametrize("level", ["info", "critical"])
async def test_a_drain_that_takes_too_long_has_exit_status_1(nats_url: str, tmp_path: Path, level: str) -> None:
    options = ("--drain-timeout", "0.2", "--log-level", level)
    with Catga(tmp_path, *RUN, *options, "--url", nats_url, "--prefix", f"slow-{level}") as run:
        async with caller(nats_url, f"slow-{level}") as node:
            await eventually(lambda: member(node, "shop"))
            call = asyncio.create_task(node.send(Work(25.0)))
            await running(node, 1)
            run.terminate()
            assert not (await call).is_success
            assert await run.ended() == 1, run.err
    assert ("stopped before it had drained" in run.err) == (level == "info")


HOLDING_ON = {
    "task": """
    while True:
        try:
            await asyncio.sleep(1.0)
        except asyncio.CancelledError:
            pass
""",
    "thread": """
    await asyncio.to_thread(threading.Event().wait)
""",
}
STUBBORN = """
import asyncio
import sys
import threading
from cli_shop import CreateOrder, Work
from catga import Mediator
mediator = Mediator()

@mediator.handler
async def work(request: Work) -> str:
    print("it runs")
"""


@pytest.mark.parametrize("signals", [1, 2, 3])
@pytest.mark.parametrize("holding_on", ["task", "thread"])
async def test_a_handler_that_holds_on_to_its_cancellation_does_not_keep_the_process(
    nats_url: str, tmp_path: Path, holding_on: str, signals: int
) -> None:
    """One signal, and the drain timeout is over; or a second one while it drains, or after that."""
    (tmp_path / "stubborn_shop.py").write_text(STUBBORN + HOLDING_ON[holding_on])
    prefix = f"stubborn-{holding_on}-{signals}"
    options = ("--node-id", "shop", "--drain-timeout", "60" if signals == 2 else "0.2")
    target = ("run", "stubborn_shop:mediator", *options, "--url", nats_url, "--prefix", prefix)
    with Catga(tmp_path, *target, cwd=tmp_path, PYTHONPATH=os.pathsep.join((str(HERE), *sys.path))) as run:
        async with caller(nats_url, prefix) as node:
            await eventually(lambda: member(node, "shop"))
            call = asyncio.create_task(node.send(Work(1.0)))
            await running(node, 1)
            run.terminate()
            if signals == 2:
                await eventually(lambda: "draining" in run.err)
                run.terminate()
            assert not (await call).is_success
            await eventually(lambda: "stopped before it had drained" in run.err)
            if signals == 3:
                run.terminate()
            assert await run.ended() == 1
    assert "the process ends now" in run.err
    assert run.out == "it runs\n"


EXITING = """
@mediator.handler
async def create(request: CreateOrder) -> dict[str, int]:
    sys.exit(7)
"""


@pytest.mark.parametrize("holding_on", ["task", "thread"])
async def test_a_handler_that_ends_the_program_ends_it_whatever_else_holds_on(
    nats_url: str, tmp_path: Path, holding_on: str
) -> None:
    (tmp_path / "exiting_shop.py").write_text(STUBBORN + HOLDING_ON[holding_on] + EXITING)
    prefix = f"exiting-{holding_on}"
    options = ("--node-id", "shop", "--drain-timeout", "0.2", "--url", nats_url, "--prefix", prefix)
    path = os.pathsep.join((str(HERE), *sys.path))
    with Catga(tmp_path, "run", "exiting_shop:mediator", *options, cwd=tmp_path, PYTHONPATH=path) as run:
        async with caller(nats_url, prefix) as node:
            await eventually(lambda: member(node, "shop"))
            call = asyncio.create_task(node.send(Work(1.0)))
            await running(node, 1)
            await node.send(CreateOrder("tea"))
            assert await run.ended() == 7
            call.cancel()


async def test_a_thread_of_the_program_does_not_keep_the_process(nats_url: str, tmp_path: Path) -> None:
    thread = "threading.Thread(target=threading.Event().wait).start()\n"
    (tmp_path / "threaded_shop.py").write_text(STUBBORN + "    return ''\n" + thread)
    prefix, path = "threaded", os.pathsep.join((str(HERE), *sys.path))
    target = ("run", "threaded_shop:mediator", "--node-id", "shop", "--url", nats_url, "--prefix", prefix)
    with Catga(tmp_path, *target, cwd=tmp_path, PYTHONPATH=path) as run:
        async with caller(nats_url, prefix) as node:
            await eventually(lambda: member(node, "shop"))
        run.terminate()
        assert await run.ended() == 0
    assert "the process ends now" in run.err


async def test_a_stop_that_cannot_unregister_has_exit_status_1(tmp_path: Path) -> None:
    options = ("--connect-timeout", "3")  # for so long after the start, leaving is tried again and again
    with NatsServer() as nats, Catga(tmp_path, *RUN, *options, "--url", nats.url) as run:
        await eventually(lambda: "joined as shop" in run.err)
        nats.stop()
        await eventually(lambda: "the link to the broker is down" in run.err)
        run.terminate()
        assert await run.ended() == 1, run.err
    assert "stopped before it had drained: could not unregister" in run.err


async def test_a_worker_that_crashes_is_started_again_with_its_id(nats_url: str, tmp_path: Path) -> None:
    with Catga(tmp_path, *RUN, "--workers", "2", "--url", nats_url, "--prefix", "crash") as run:
        async with caller(nats_url, "crash") as node:
            await eventually(lambda: len(node.get_nodes()) == 2)
            before = {n.node_id: n.incarnation for n in node.get_nodes()}
            died = await node.send_to_node(Die(), "shop-1")
            assert not died.is_success
            assert isinstance(died.error, MaybeExecutedError)

            def is_back() -> bool:
                now = member(node, "shop-1")
                return now is not None and now.incarnation > before["shop-1"]

            await eventually(is_back)
            assert (await node.send_to_node(CreateOrder("a"), "shop-1")).unwrap() == {"a": 1}
            now = member(node, "shop-2")
            assert now is not None
            assert now.incarnation == before["shop-2"]
        run.terminate()
        assert await run.ended() == 0, run.err
    assert "worker 1 ended with exit status 7; it is started again in 0.5 s" in run.err


async def test_a_request_that_kills_its_nodes_is_said_to_have_run_perhaps(nats_url: str, tmp_path: Path) -> None:
    where = ("--url", nats_url, "--prefix", "poison")
    (tmp_path / "send").mkdir()
    with Catga(tmp_path, *RUN, *where) as run:
        await eventually(lambda: "joined as shop" in run.err)
        with Catga(tmp_path / "send", "send", "cli_shop:DieAgain", "--timeout", "20", *where) as send:
            assert await send.ended() == 1
        assert await run.ended() == 7
    assert "the request may have been executed" in send.err


async def test_workers_leave_gracefully_when_their_supervisor_is_killed(nats_url: str, tmp_path: Path) -> None:
    with Catga(tmp_path, *RUN, "--workers", "2", "--url", nats_url, "--prefix", "orphan") as run:
        async with caller(nats_url, "orphan") as node:
            await eventually(lambda: len(node.get_nodes()) == 2)
            watcher = node.watch()
            run.process.kill()
            reasons = []
            async with asyncio.timeout(30):
                async for event in watcher:
                    if event.type is NodeChangeType.LEFT:
                        reasons.append(event.reason)
                        if len(reasons) == 2:
                            break
            assert reasons == [LeftReason.DRAINED] * 2


async def test_sigint_reaches_the_workers_through_the_supervisor_only(nats_url: str, tmp_path: Path) -> None:
    with Catga(tmp_path, *RUN, "--workers", "2", "--url", nats_url, "--prefix", "sigint") as run:
        async with caller(nats_url, "sigint") as node:
            await eventually(lambda: len(node.get_nodes()) == 2)
            call = asyncio.create_task(node.send(Work(0.5)))
            await running(node, 1)
            os.kill(run.process.pid, signal.SIGINT)
            assert (await call).unwrap_or("lost") == "done"
        assert await run.ended() == 0, run.err


async def test_reload_runs_the_changed_code(nats_url: str, tmp_path: Path) -> None:
    app = tmp_path / "reloaded_shop.py"
    source = (HERE / "cli_shop.py").read_text()
    app.write_text(source)
    target = ("run", "reloaded_shop:mediator", "--node-id", "shop", "--reload")
    with Catga(tmp_path, *target, "--url", nats_url, "--prefix", "reload", cwd=tmp_path) as run:
        async with caller(nats_url, "reload") as node:
            await eventually(lambda: (found := member(node, "shop")) and len(found.handles) == 6)
            app.write_text("this is not Python")
            await eventually(lambda: "it is started again when the code changes" in run.err)
            app.write_text(source.replace("@mediator.handler\nasync def fail", "async def fail"))
            await eventually(lambda: (found := member(node, "shop")) and len(found.handles) == 5)
        run.terminate()
        assert await run.ended() == 0, run.err


TWICE = """from catga import Mediator
from cli_shop import CreateOrder
mediator = Mediator()
mediator.handles(CreateOrder)(lambda order: {})
mediator.handles(CreateOrder)(lambda order: {})
"""
MISTAKES = {
    "there is no module 'nowhere'": ("nowhere:mediator", ""),
    "did you mean mediator?": ("mistake:mediatr", "from catga import Mediator\nmediator = Mediator()\n"),
    "SyntaxError": ("mistake:mediator", "def ("),
    "mistake.py, line 2": ("mistake:mediator", "x = 1\nraise ValueError('no database')\n"),
    "mistake.py, line 5": ("mistake:mediator", TWICE),
    "No module named 'not_installed_at_all'": ("mistake:mediator", "import not_installed_at_all\n"),
    "not a Mediator": ("mistake:mediator", "mediator = 1\n"),
    "add --factory": ("mistake:mediator", "def mediator(): ...\n"),
    "is not of the form module:name, e.g. app:mediator": ("mistake", ""),
    "write mistake:mediator": ("mistake.py:mediator", ""),
    "write shop.mistake:mediator": ("./shop/mistake.py:mediator", ""),
    "write --app-dir ../shop mistake:mediator": ("../shop/mistake.py:mediator", ""),
}


@pytest.mark.parametrize(("expected", "workers"), [*((text, "1") for text in MISTAKES), ("SyntaxError", "2")])
async def test_a_mistake_of_the_user_is_told_in_a_line_without_a_traceback(
    tmp_path: Path, expected: str, workers: str
) -> None:
    target, source = MISTAKES[expected]
    (tmp_path / "mistake.py").write_text(source)
    with Catga(tmp_path, "run", target, "--workers", workers, cwd=tmp_path, PYTHONPATH=str(HERE)) as run:
        assert await run.ended() == 2
    assert expected in run.err
    assert "Traceback" not in run.err


async def test_an_async_factory_is_told_without_a_warning(tmp_path: Path) -> None:
    (tmp_path / "mistake.py").write_text("async def make(): ...\n")
    with Catga(tmp_path, "run", "mistake:make", "--factory", cwd=tmp_path) as run:
        assert await run.ended() == 2
    assert run.err == "Error: the factory mistake:make is async: make it a plain function that returns the mediator\n"


async def test_an_unreachable_broker_is_told_and_has_its_own_exit_status(tmp_path: Path) -> None:
    url = f"nats://ann:s3cret@127.0.0.1:{free_port()}"
    with Catga(tmp_path, *RUN, "--connect-timeout", "0.5", CATGA_URL=url) as run:
        assert await run.ended() == 3
    assert "could not be reached within 0.5 s" in run.err
    assert "Traceback" not in run.err
    assert "s3cret" not in run.err


@pytest.mark.parametrize(
    ("args", "more"),
    [
        (("--factory", "-m", "zone=eu", "-m", "rack=7"), {}),
        ((), {"CATGA_FACTORY": "1", "CATGA_METADATA": "zone=eu rack=7"}),
    ],
)
async def test_options_come_from_the_environment(
    nats_url: str, tmp_path: Path, args: tuple[str, ...], more: dict[str, str]
) -> None:
    prefix = f"environ{len(args)}"
    env = {"CATGA_URL": nats_url, "CATGA_PREFIX": prefix, "CATGA_NODE_ID": "from-env", "CATGA_SERVICE": "orders"}
    with Catga(tmp_path, "run", "cli_shop:make", *args, **env, **more) as run:
        async with caller(nats_url, prefix) as node:
            found = await eventually(lambda: member(node, "from-env"))
            assert (found.service, found.metadata) == ("orders", {"zone": "eu", "rack": "7"})
        run.terminate()
        assert await run.ended() == 0, run.err


READY = """
import os
import re
from cli_shop import mediator
from catga import add_cluster
app = add_cluster(mediator, os.environ["BROKER"], prefix="ready", node_id="ready-made")
"""


async def test_the_environment_is_ignored_for_a_target_that_is_in_a_cluster_already(
    nats_url: str, tmp_path: Path
) -> None:
    (tmp_path / "ready_shop.py").write_text(READY)
    env = {"CATGA_URL": "nats://127.0.0.1:1", "CATGA_NODE_ID": "other", "CATGA_SIGNING_KEYS": "of another cluster"}
    env |= {"CATGA_METADATA": "zone=a", "CATGA_FACTORY": "1", "BROKER": nats_url, "PYTHONPATH": str(HERE)}
    with Catga(tmp_path, "run", "ready_shop:app", cwd=tmp_path, **env) as run:
        async with caller(nats_url, "ready") as node:
            await eventually(lambda: member(node, "ready-made"))
        run.terminate()
        assert await run.ended() == 0, run.err
    for name in ("CATGA_URL", "CATGA_METADATA", "CATGA_SIGNING_KEYS"):
        assert f"{name} is ignored: ready_shop:app is in a cluster already" in run.err


@pytest.mark.parametrize(
    ("option", "named"), [(("--url", "nats://127.0.0.1:1"), "--url"), (("--workers", "2"), "--workers")]
)
async def test_an_option_that_a_target_in_a_cluster_cannot_have_is_named(
    tmp_path: Path, option: tuple[str, str], named: str
) -> None:
    (tmp_path / "ready_shop.py").write_text(READY)
    env = {"CATGA_PREFIX": "other", "BROKER": "nats://127.0.0.1:1", "PYTHONPATH": str(HERE)}
    with Catga(tmp_path, "run", "ready_shop:app", *option, cwd=tmp_path, **env) as run:
        assert await run.ended() == 2
    assert "ready_shop:app is in a cluster already" in run.err
    assert named in run.err
    assert "CATGA_PREFIX" not in run.err
