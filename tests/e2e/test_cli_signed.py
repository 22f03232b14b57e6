"""The command line and a cluster whose nodes sign."""

import asyncio
import json
import os
import secrets
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cli_process import HERE, Catga, member
from cli_shop import CreateOrder
from cli_shop import mediator as shop

from catga import Mediator, add_cluster
from catga.testing.waiting import eventually

OLD, NEW = b"an old secret of the cluster", bytes(range(32))
KEYS = f"hex:{NEW.hex()}, {OLD.decode()}"
OTHERS = "another secret altogether"
SIGNED = "this cluster is signed: set CATGA_SIGNING_KEYS"


@pytest.fixture(params=["nats_url", "redis_url"])
def url(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(request.param)
    return found


@pytest.fixture
async def prefix(url: str) -> AsyncIterator[str]:
    """Of a cluster of one node, which signs with the old key still."""
    name = f"signed-{secrets.token_hex(4)}"
    async with add_cluster(shop, url, prefix=name, node_id="signed", signing_keys=[OLD, NEW]):
        yield name


async def catga(url: str, prefix: str, *args: str, keys: str = "") -> tuple[int, str, str]:
    """Run a command: its exit status, stdout, stderr."""
    where = {"CATGA_URL": url, "CATGA_PREFIX": prefix, "CATGA_APP_DIR": str(HERE), "CATGA_SIGNING_KEYS": keys}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "catga.cli", *args),
        env={**os.environ, **where},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


ALL: dict[str, tuple[str, ...]] = {
    "nodes": (),
    "ping": ("signed", "--count", "1"),
    "send": ("cli_shop:CreateOrder", '{"sku": "a"}'),
    "publish": ("cli_shop:Created", '{"sku": "a"}'),
    "broadcast": ("cli_shop:Created", '{"sku": "a"}'),
    "bench": ("-n", "2"),
    "top": ("-n", "1", "-i", "0.1"),
}


async def test_every_command_works_with_the_keys(url: str, prefix: str) -> None:
    running = [catga(url, prefix, command, *args, "--json", keys=KEYS) for command, args in ALL.items()]
    for command, (status, out, err) in zip(ALL, await asyncio.gather(*running), strict=True):
        assert (status, err) == (0, ""), (command, err)
        assert json.loads(out), command


@pytest.mark.parametrize("keys", ["", OTHERS])
async def test_without_the_keys_a_command_says_so_and_does_not_wait(url: str, prefix: str, keys: str) -> None:
    told = "this cluster is signed with other keys: set CATGA_SIGNING_KEYS to its own" if keys else SIGNED
    commands = ("nodes", "ping", "send", "watch")
    running = [catga(url, prefix, command, *ALL.get(command, ()), keys=keys) for command in commands]
    assert await asyncio.gather(*running) == [(2, "", f"Error: {told}\n")] * len(commands)


async def test_the_help_names_the_variable(nats_url: str) -> None:
    assert "CATGA_SIGNING_KEYS" in (await catga(nats_url, "any", "--help"))[1]


async def test_keys_for_a_cluster_that_does_not_sign_are_told(url: str) -> None:
    async with add_cluster(shop, url, prefix="unsigned"):
        status, _, err = await catga(url, "unsigned", "nodes", keys=KEYS)
    assert (status, err) == (2, "Error: this cluster is not signed: unset CATGA_SIGNING_KEYS\n")


async def test_doctor_blames_no_node_for_keys_that_it_lacks(url: str, prefix: str) -> None:
    async def findings(keys: str, status: int) -> dict[str, Any]:
        ended, out, err = await catga(url, prefix, "doctor", "--json", keys=keys)
        assert ended == status, out + err
        return {f["check"]: f for f in json.loads(out) if f["level"] in ("warning", "problem")}

    *lacking, fitting = await asyncio.gather(findings("", 1), findings(OTHERS, 1), findings(KEYS, 0))
    for (found,) in (each.values() for each in lacking):
        assert found["check"] == "signatures"
        assert found["fix"].startswith("set CATGA_SIGNING_KEYS")
    assert fitting == {}


async def test_run_signs_with_the_first_key_and_its_workers_do(url: str, tmp_path: Path) -> None:
    options = ("--workers", "2", "--node-id", "shop", "--url", url, "--prefix", "run-signed")
    with Catga(tmp_path, "run", "cli_shop:mediator", *options, CATGA_SIGNING_KEYS=KEYS):
        async with add_cluster(
            Mediator(), url, prefix="run-signed", signing_keys=[NEW], observe_only=True, probe_interval=0.2
        ) as node:
            await eventually(lambda: member(node, "shop-1") and member(node, "shop-2"))
            assert (await node.send(CreateOrder("a"))).is_success


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ("short", "signing_keys must be one or more secrets of at least 16 bytes"),
        (f"{OTHERS},", "signing_keys must be one or more secrets of at least 16 bytes"),
        ("hex:s3cret-that-is-no-hex", "what follows hex: must be hexadecimal digits, two a byte"),
    ],
)
@pytest.mark.parametrize("args", [("nodes",), ("run", "cli_shop:mediator")])
async def test_keys_that_are_none_are_wrong_usage_and_not_quoted(args: tuple[str, ...], keys: str, told: str) -> None:
    assert await catga("nats://127.0.0.1:1", "catga", *args, keys=keys) == (
        2,
        "",
        f"Error: CATGA_SIGNING_KEYS: {told}\n",
    )
