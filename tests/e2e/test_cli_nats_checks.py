"""What `catga doctor` finds out about a NATS server."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from guarded import Guarded
from nodes import node

from catga.abc import BackendSettings, Sighting
from catga.backends.nats import open_backend
from catga.cli.app import cli
from catga.cli.checks import Level
from catga.cli.checks.nats import examine
from catga.cli.options import Where


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Guarded]:
    with Guarded(tmp_path) as own:
        yield own


@pytest.mark.parametrize(
    ("right", "told"),
    [
        ({"publish": "inbox.>"}, "forbids publishing to catga.inbox."),
        ({"publish": "sync.*"}, "forbids publishing to catga.sync."),
        ({"subscribe": "bounce.>"}, "forbids subscribing to catga.bounce."),
        ({"subscribe": "sync"}, "forbids subscribing to catga.sync"),
        ({"subscribe": "nodes.>"}, "forbids subscribing to catga.nodes."),
    ],
)
def test_doctor_names_the_right_that_is_missing(tmp_path: Path, right: dict[str, str], told: str) -> None:
    """And blames neither a wildcard listener for the silence, nor the nodes."""
    server = Guarded(tmp_path)
    server.forbid(**right)
    with server:
        last = examined(server.url, 1)[-1]
    assert (last["check"], last["level"]) == ("permissions", "problem")
    assert told in last["text"]
    assert "catga.>" in last["fix"]


def test_doctor_names_each_forbidden_subject_once_and_only_its_kind(tmp_path: Path) -> None:
    server = Guarded(tmp_path)
    server.forbid(publish=">", subscribe=">")
    with server:
        text = examined(server.url, 1)[-1]["text"]
    assert "forbids publishing to catga.inbox.*.0, catga.reply.*, catga.sync.*" in text
    subscribed = text.partition("forbids publishing")[0]
    assert all(subscribed.count(f"catga.{kind}.*") == 1 for kind in ("inbox", "reply", "sync", "bounce", "nodes"))


@pytest.mark.parametrize("queue", ["sync", "*"])
def test_doctor_is_content_with_rights_that_are_limited_to_the_group(tmp_path: Path, queue: str) -> None:
    server = Guarded(tmp_path)
    server.allow_in_group(queue)
    with server:
        found = examined(server.url, 0)
    assert [each["level"] for each in found if each["check"] == "permissions"] == ["ok"]


def test_doctor_misses_the_right_to_the_group(tmp_path: Path) -> None:
    server = Guarded(tmp_path)
    server.allow_in_group("other")
    with server:
        last = examined(server.url, 1)[-1]
    assert (last["check"], last["level"]) == ("permissions", "problem")
    assert last["text"] == "forbids subscribing to catga.sync"


async def test_doctor_takes_no_question_away_from_the_members(server: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever joins meanwhile is told of the members at its first question."""
    monkeypatch.setattr("catga.backends.nats.discovery.SYNC_TRIES", 1)
    monkeypatch.setattr("catga.backends.nats.discovery.SYNC_TIMEOUT", 10.0)
    stop = asyncio.Event()

    async def look() -> None:
        while not stop.is_set():
            async for _ in examine(Where(server.url, "catga", 5.0)):
                pass

    async with node(server.url, "a"):
        looking = [asyncio.create_task(look()) for _ in range(3)]
        for _ in range(80):  # a member answers so many at once
            backend = open_backend(BackendSettings(url=server.url))
            await backend.discovery.watch(lambda _: None, None)
            (seen,) = await backend.discovery.get_nodes()
            assert isinstance(seen, Sighting)
            await backend.discovery.aclose()
        stop.set()
        await asyncio.gather(*looking)


@pytest.mark.parametrize("args", [(), ("--json",)])
def test_doctor_makes_a_finding_of_what_forbids_to_look_at_the_nodes(tmp_path: Path, args: tuple[str, ...]) -> None:
    server = Guarded(tmp_path)
    server.forbid(publish="sync")
    with server:
        result = CliRunner().invoke(cli, ["doctor", *args], env={"CATGA_URL": server.url})
    assert result.exit_code == 1, result.output
    assert "Error:" not in result.output
    if args:
        last = json.loads(result.stdout)[-1]
        assert (last["check"], last["level"], last["fix"]) == ("nodes", "problem", 'allow "catga.>"')
        assert "forbids publishing to catga.sync" in last["text"]


@pytest.mark.parametrize("victim", ["round trip", "JetStream"])
async def test_doctor_says_so_when_the_server_is_lost_while_it_looks(server: Guarded, victim: str) -> None:
    found = []
    async for finding in examine(Where(server.url, "catga", 2.0)):
        found.append(finding)
        if finding.check == victim:
            await asyncio.to_thread(server.kill)
    assert (found[-1].check, found[-1].level) == ("reachable", Level.PROBLEM)
    assert found[-1].fix


def test_doctor_says_what_a_right_is_wanted_for_that_not_all_nodes_need(tmp_path: Path) -> None:
    server = Guarded(tmp_path)
    server.forbid(publish="queue.>")
    with server:
        levels = {each["check"]: each["level"] for each in examined(server.url, 0)}
    assert (levels["permissions"], levels["queues"], levels["bounces"]) == ("ok", "warning", "ok")


def test_doctor_finds_all_rights_there(server: Guarded) -> None:
    assert {"permissions", "bounces"} <= {each["check"] for each in examined(server.url, 0) if each["level"] == "ok"}


def examined(url: str, status: int) -> list[dict[str, str]]:
    result = CliRunner().invoke(cli, ["doctor", "--json"], env={"CATGA_URL": url})
    assert result.exit_code == status, result.output
    found: list[dict[str, str]] = json.loads(result.stdout)
    return found
