"""The commands that look at a running cluster and talk to it."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from cli_process import HERE, Catga
from click.testing import CliRunner, Result

from catga import Mediator, add_cluster
from catga._version import __version__
from catga.cli.app import COMMANDS, cli
from catga.cli.checks import Finding, Level
from catga.cli.checks.cluster import examine
from catga.cli.options import Where
from catga.testing.servers import NatsServer, RedisServer, free_port

PREFIX = "commands"
FULL = Path("/dev/full")
IDS = ["shop-1", "shop-2"]


@pytest.fixture(scope="module", params=["nats_url", "redis_url"])
def url(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def shop(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a cluster of two nodes."""
    options = ("--workers", "2", "--node-id", "shop", "--url", url, "--prefix", PREFIX)
    with Catga(tmp_path_factory.mktemp("shop"), "run", "cli_shop:mediator", *options) as run:
        deadline = time.monotonic() + 30
        while run.err.count("joined as shop-") < 2:
            assert time.monotonic() < deadline, run.err
            time.sleep(0.05)
        yield url


def catga(url: str, *args: str, input: str | None = None) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(
        cli, list(args), input=input, env={"CATGA_URL": url, "CATGA_PREFIX": PREFIX, "CATGA_APP_DIR": str(HERE)}
    )


def output(url: str, *args: str, status: int = 0) -> str:
    """What the command wrote to stdout."""
    result = catga(url, *args)
    assert result.exit_code == status, result.output
    return result.stdout


def parsed(url: str, *args: str, status: int = 0) -> Any:
    return json.loads(output(url, *args, "--json", status=status))


# -- looking --------------------------------------------------------------------------------------------


def test_nodes_lists_the_members_and_not_itself(shop: str) -> None:
    rows = parsed(shop, "nodes")
    assert [row["node_id"] for row in rows] == IDS
    assert {(row["state"], row["service"], row["version"]) for row in rows} == {("alive", "default", __version__)}
    assert all(row["latency"] > 0 and row["age"] >= 0 and "cli_shop.Work" in row["handles"] for row in rows)


def test_nodes_prints_a_table_without_colours_where_there_is_no_terminal(shop: str) -> None:
    text = output(shop, "nodes")
    assert all(word in text for word in ("NODE", "LATENCY", "alive", *IDS))
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("args", "first"),
    [
        (["doctor"], "reachable"),
        (["broadcast", "cli_shop:Created", '{"sku": "a"}'], "shop-1"),
        (["watch"], "joined"),
        (["nodes"], "shop-1"),
    ],
)
def test_a_terminal_gets_colours_unless_no_color_is_set(shop: str, args: list[str], first: str) -> None:
    assert "\x1b[" in on_a_terminal(shop, args, first, NO_COLOR="")
    plain = on_a_terminal(shop, args, first, NO_COLOR="1")
    assert not re.search(r"\x1b\[(3|9)\d", plain), plain


def on_a_terminal(url: str, args: list[str], first: str, **env: str) -> str:
    """What a command writes to a terminal, up to the line that has `first`."""
    where = {"CATGA_URL": url, "CATGA_PREFIX": PREFIX, "CATGA_APP_DIR": str(HERE), "TERM": "xterm", **env}
    ours, its = os.openpty()
    with subprocess.Popen([sys.executable, "-m", "catga.cli", *args], env={**os.environ, **where}, stdout=its) as run:
        os.close(its)
        with os.fdopen(ours, errors="replace") as screen:
            line = next(line for line in screen if first in line)
            run.kill()
    return line


def test_nodes_cuts_nothing_where_there_is_no_terminal(shop: str) -> None:
    result = CliRunner().invoke(cli, ["nodes"], env={"CATGA_URL": shop, "CATGA_PREFIX": PREFIX, "COLUMNS": "40"})
    assert "INCARNATION" in result.stdout
    lines = [line.rstrip() for line in result.stdout.splitlines()]  # rich before 14.3 pads them
    whole = [line for line in lines if line.endswith("CreateOrder, Created, Die, DieAgain, Fail, Work")]
    assert len(whole) == 2, result.stdout


def test_nodes_of_an_empty_cluster_says_so(shop: str) -> None:
    result = catga(shop, "nodes", "--prefix", "nobody")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "no nodes (prefix 'nobody')" in result.stderr


def test_nodes_watch_json_is_a_line_an_interval_until_ctrl_c(shop: str, tmp_path: Path) -> None:
    args = ("nodes", "--watch", "--json", "-i", "0.1", "--url", shop, "--prefix", PREFIX)
    with Catga(tmp_path, *args) as command:
        rows = json.loads(command.wait_for_line())
        os.kill(command.process.pid, signal.SIGINT)
        assert command.process.wait(30) == 0, command.err
    assert [row["node_id"] for row in rows] == IDS
    assert "Traceback" not in command.err


def test_watch_tells_the_members_then_who_joins_and_leaves(shop: str, tmp_path: Path) -> None:
    where = ("--url", shop, "--prefix", PREFIX)
    folders = [tmp_path / "watch", tmp_path / "run"]
    for folder in folders:
        folder.mkdir()
    with Catga(folders[0], "watch", "--json", *where) as command:
        for node_id in IDS:
            command.wait_for_line(node_id)
        with Catga(folders[1], "run", "cli_shop:mediator", "--node-id", "guest", *where) as guest:
            joined = json.loads(command.wait_for_line('"guest"'))
            guest.terminate()
            left = json.loads(command.wait_for_line('"left"'))
        os.kill(command.process.pid, signal.SIGINT)
        assert command.process.wait(30) == 0, command.err
    assert (joined["type"], left["node"]["node_id"], left["reason"]) == ("joined", "guest", "drained")


def test_top_counts_by_type_and_node(shop: str, tmp_path: Path) -> None:
    args = ("top", "--json", "-i", "1", "-n", "1", "--url", shop, "--prefix", PREFIX)
    with Catga(tmp_path, *args) as command:
        while command.process.poll() is None:
            parsed(shop, "send", "cli_shop:CreateOrder", '{"sku": "a"}', "--node", "shop-1")
            parsed(shop, "send", "cli_shop:Fail", "--node", "shop-2", status=1)
    data = json.loads(command.out)
    rows = {(row["type"], row["node"]): row for row in data["rows"]}
    assert data["nodes"] == IDS
    order, fail = rows["cli_shop.CreateOrder", "shop-1"], rows["cli_shop.Fail", "shop-2"]
    assert order["rate"] > 0 == order["errors"]
    assert 0 < order["p50"] <= order["p99"]
    assert fail["errors"] == fail["rate"] > 0


def test_ping_measures_round_trips_to_each_node(shop: str) -> None:
    rows = parsed(shop, "ping", "-c", "2", "-i", "0")
    assert [(row["node_id"], len(row["seconds"])) for row in rows] == [(node_id, 2) for node_id in IDS]
    assert "2/2" in output(shop, "ping", "shop-2", "-c", "2", "-i", "0")


def test_ping_of_a_node_that_is_none_names_those_that_are(shop: str) -> None:
    result = catga(shop, "ping", "nobody")
    assert result.exit_code == 1
    assert "no node nobody; the nodes are shop-1, shop-2" in result.stderr


def test_bench_counts_every_call(shop: str) -> None:
    figures = parsed(shop, "bench", "-n", "100", "-c", "10")
    assert (figures["calls"], figures["nodes"], figures["errors"]) == (100, {"shop-1": 50, "shop-2": 50}, {})
    assert figures["latency"]["p50"] <= figures["latency"]["p99"] <= figures["max"]
    assert "CALLS/S" in output(shop, "bench", "cli_shop:CreateOrder", '{"sku": "a"}', "-n", "20", "--node", "shop-1")


def test_bench_of_a_failing_request_fails(shop: str) -> None:
    assert parsed(shop, "bench", "cli_shop:Fail", "-n", "5", status=1)["errors"] == {"handler_error": 5}


def test_doctor_finds_nothing_wrong_with_a_healthy_cluster(shop: str) -> None:
    findings = {f["check"]: f["level"] for f in parsed(shop, "doctor")}
    wanted = ("reachable", "version", "round trip", "permissions", "nodes", "answers", "clocks", "duplicate ids")
    assert {findings[name] for name in wanted} == {"ok"}


@pytest.mark.parametrize(("others", "signing_keys"), [([], []), ([], [b"a secret of the cluster"]), (["other"], [])])
def test_doctor_finds_processes_with_one_id_also_where_they_are_alone(
    shop: str, others: list[str], signing_keys: list[bytes]
) -> None:
    ids = ["fixed", "fixed", "fixed", *others]
    prefix = f"twins-{len(others)}-{len(signing_keys)}"

    async def check() -> list[Finding]:
        async with AsyncExitStack() as stack:
            for node_id in ids:
                node = add_cluster(Mediator(), shop, prefix=prefix, node_id=node_id, signing_keys=signing_keys)
                await stack.enter_async_context(node)
            where = Where(shop, prefix, 5.0, tuple(signing_keys))
            return [finding async for finding in examine(where) if finding.level is Level.PROBLEM]

    (problem,) = asyncio.run(check())
    assert problem.check == "duplicate ids"
    assert problem.text.startswith("3 processes have the id 'fixed'")
    assert problem.fix


# -- talking --------------------------------------------------------------------------------------------


def test_send_prints_the_value_on_stdout_and_the_rest_on_stderr(shop: str) -> None:
    result = catga(shop, "send", "cli_shop:CreateOrder", '{"sku": "a", "quantity": 3}')
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"a": 3}
    assert result.stderr.startswith("by shop-")


def test_send_takes_the_fields_from_stdin_or_a_file(shop: str, tmp_path: Path) -> None:
    (tmp_path / "order.json").write_text('{"sku": "b"}')
    assert json.loads(catga(shop, "send", "cli_shop:CreateOrder", "-", input='{"sku": "c"}').stdout) == {"c": 1}
    assert json.loads(output(shop, "send", "cli_shop:CreateOrder", f"@{tmp_path / 'order.json'}")) == {"b": 1}


def test_send_to_one_node_and_by_key(shop: str) -> None:
    body = '{"sku": "a"}'
    assert parsed(shop, "send", "cli_shop:CreateOrder", body, "--node", "shop-2")["node"] == "shop-2"
    chosen = [parsed(shop, "send", "cli_shop:CreateOrder", body, "--key", "k")["node"] for _ in range(4)]
    assert len(set(chosen)) == 1


def test_explain_tells_the_choice_and_sends_nothing(shop: str) -> None:
    text = output(shop, "send", "cli_shop:Die", "--node", "shop-2", "--explain", status=2)
    assert text == ""
    assert parsed(shop, "send", "cli_shop:Die", "--explain")["choice"] in IDS
    keyed = [parsed(shop, "send", "cli_shop:Die", "--explain", "--key", "k")["choice"] for _ in range(3)]
    assert len(set(keyed)) == 1
    assert "by ConsistentHash() for the key 'k'" in output(shop, "send", "cli_shop:Die", "--explain", "--key", "k")
    assert "cli_shop.Die goes to shop-" in output(shop, "send", "cli_shop:Die", "--explain")


def test_a_failed_request_has_exit_status_1_and_no_traceback(shop: str) -> None:
    result = catga(shop, "send", "cli_shop:Fail")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "handler_error: RuntimeError: out of stock (node shop-" in result.stderr
    answer = parsed(shop, "send", "cli_shop:Fail", status=1)
    assert (answer["ok"], answer["error"]["code"]) == (False, "handler_error")


MISTAKES = {
    "missing required field `sku`": ("send", "cli_shop:CreateOrder", "{}"),
    "Expected `int`, got `str` - at `$.quantity`": ("send", "cli_shop:CreateOrder", '{"sku": "a", "quantity": "x"}'),
    "not a cli_shop.CreateOrder": ("send", "cli_shop:CreateOrder", "{"),
    "did you mean CreateOrder?": ("send", "cli_shop:CreateOrdr"),
    "is not a request: it is an event, which `catga publish`": ("send", "cli_shop:Created"),
    "is not an event: it is a request, which `catga send` sends": ("publish", "cli_shop:CreateOrder"),
    "'CreateOrder' is not of the form module:name, e.g. app:CreateOrder": ("send", "CreateOrder"),
    "'Created' is not of the form module:name, e.g. app:OrderCreated": ("publish", "Created"),
    "write cli_shop:CreateOrder": ("send", "cli_shop.py:CreateOrder"),
    "cannot read nowhere.json": ("send", "cli_shop:CreateOrder", "@nowhere.json"),
    "exclude each other": ("send", "cli_shop:CreateOrder", "{}", "--node", "a", "--key", "b"),
    "memory:// cluster lives inside one process": ("nodes", "--url", "memory://x"),
    "no backend for 'ftp://x'": ("nodes", "--url", "ftp://x"),
    "No such command": ("nonsense",),
}


@pytest.mark.parametrize("expected", MISTAKES)
def test_a_mistake_of_the_user_has_exit_status_2(expected: str) -> None:
    result = catga("nats://127.0.0.1:1", *MISTAKES[expected])
    assert result.exit_code == 2, result.output
    assert expected in result.stderr


def test_publish_tells_the_services_and_broadcast_the_nodes(shop: str) -> None:
    assert parsed(shop, "publish", "cli_shop:Created", '{"sku": "a"}') == {
        "ok": True,
        "services": ["default"],
        "error": None,
    }
    assert parsed(shop, "broadcast", "cli_shop:Created", '{"sku": "a"}') == {"acknowledged": IDS, "failed": {}}


def test_an_event_that_a_handler_fails_on_has_exit_status_1(shop: str) -> None:
    assert parsed(shop, "publish", "cli_shop:Created", '{"sku": "bad"}', status=1)["error"]["code"] == "handler_error"
    failed = parsed(shop, "broadcast", "cli_shop:Created", '{"sku": "bad"}', status=1)["failed"]
    assert {node_id: error["code"] for node_id, error in failed.items()} == dict.fromkeys(IDS, "handler_error")


def test_what_a_handler_says_cannot_control_the_terminal(shop: str) -> None:
    text = output(shop, "broadcast", "cli_shop:Created", r'{"sku": "bad\u001b[2J\nnews"}', status=1)
    assert [line.split(" ", 1)[0] for line in text.splitlines()] == IDS
    assert r"cannot note bad\x1b[2J\nnews" in text
    result = catga(shop, "publish", "cli_shop:Created", r'{"sku": "bad\u001b[2J"}')
    assert r"cannot note bad\x1b[2J" in result.stderr


def test_a_broadcast_to_no_node_says_so(shop: str) -> None:
    result = catga(shop, "broadcast", "cli_shop:Created", '{"sku": "a"}', "--prefix", "nobody")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "no nodes (prefix 'nobody'): nothing happened" in result.stderr


@pytest.mark.parametrize("encoding", ["ascii", pytest.param("latin-1", marks=pytest.mark.long)])
def test_a_stdout_that_lacks_characters_gets_all_else(shop: str, encoding: str) -> None:
    def told(*args: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "catga.cli", *args],
            env={**os.environ, "CATGA_URL": shop, "CATGA_APP_DIR": str(HERE), "PYTHONIOENCODING": encoding},
            input='{"sku": "tea €"}',
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=True,
        )
        assert done.stderr == "" or done.stderr.startswith("by shop-")
        return done.stdout

    where = ("--prefix", PREFIX)
    assert "shop-1" in told("nodes", *where)
    assert "by node: shop-1" in told("bench", "-n", "2", *where)
    assert "reachable" in told("doctor", *where)
    assert "REQ/S" in told("top", "-n", "1", "-i", "0.1", *where)
    assert json.loads(told("send", "cli_shop:CreateOrder", "-", *where)) == {"tea €": 1}
    assert r'"value":{"tea \u20ac":1}' in told("send", "cli_shop:CreateOrder", "-", "--json", *where)


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    "args", [("nodes",), ("nodes", "--json"), ("ping", "-c", "1"), ("doctor",), ("send", "cli_shop:CreateOrder", "-")]
)
def test_a_full_disk_behind_stdout_is_told_in_a_line(shop: str, args: tuple[str, ...]) -> None:
    with FULL.open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "catga.cli", *args],
            env={**os.environ, "CATGA_URL": shop, "CATGA_PREFIX": PREFIX, "CATGA_APP_DIR": str(HERE)},
            input='{"sku": "a"}',
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "Error: cannot write to stdout: No space left on device\n"


# -- without a cluster ----------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["nats", "redis"])
@pytest.mark.parametrize("command", ["nodes", "watch", "top", "ping", "bench", "doctor"])
def test_an_unreachable_broker_has_exit_status_3(command: str, scheme: str) -> None:
    url = f"{scheme}://:s3cret@127.0.0.1:{free_port()}"
    result = catga(url, command, "--connect-timeout", "0.3")
    assert result.exit_code == 3, result.output
    assert "s3cret" not in result.output
    assert "Traceback" not in result.output


def test_doctor_knows_a_wrong_password() -> None:
    with NatsServer(user="ann", password="s3cret") as nats, RedisServer(password="s3cret") as redis:
        for port, scheme, user in ((nats.port, "nats", "ann"), (redis.port, "redis", "")):
            result = catga(f"{scheme}://{user}:wr0ng@127.0.0.1:{port}", "doctor")
            assert result.exit_code == 3, result.output
            assert "check user and password" in result.output
            assert "wr0ng" not in result.output


def test_a_wrong_password_is_told_as_what_it_is() -> None:
    with NatsServer(user="ann", password="s3cret") as nats, RedisServer(password="s3cret") as redis:
        for port, scheme, user in ((nats.port, "nats", "ann"), (redis.port, "redis", "")):
            result = catga(f"{scheme}://{user}:wr0ng@127.0.0.1:{port}", "nodes")
            assert result.exit_code == 3, result.output
            assert result.output.startswith(f"Error: {scheme}://{user}:***@127.0.0.1:{port} refused the credentials")
            assert "reached" not in result.output


def test_doctor_speaks_to_no_server_in_plain_text_where_tls_is_wanted(nats_url: str) -> None:
    (found,) = parsed(nats_url.replace("nats://", "tls://ann:s3cret@"), "doctor", status=3)
    assert (found["check"], found["level"]) == ("reachable", "problem")
    assert found["text"].endswith("offers no TLS")
    assert "s3cret" not in str(found)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    text = output("", command, "--help")
    assert "Usage: catga" in text or "Usage: cli" in text
    assert len(text.splitlines()) > 5


def test_the_version_is_told() -> None:
    assert output("", "--version") == f"catga {__version__}\n"
