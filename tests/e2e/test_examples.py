"""The order service on Redis and on NATS: its local form is run, its compose file read as far as that goes without
an engine."""

import asyncio
import importlib.util
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from catga.testing.servers import NatsServer, RedisServer

ROOT = Path(__file__).parents[2]
BROKERS = ("redis", "nats")
SERVERS = {"redis": RedisServer, "nats": lambda: NatsServer(jetstream=True)}
DOCKERFILE = ROOT / "examples" / "order_cluster" / "Dockerfile"
NODES = ("order-1", "order-2", "order-3")
PROGRAMS = (*NODES, "gateway")

STORY = """\
Three nodes and a gateway, a process each, have joined.
Two orders of each customer: the customer's name says where they go.
    order-1: ann
    order-2: bob, cleo, hal
    order-3: dan, eve, fay, gus
order-2 was killed while 96 orders came: none failed, and only its customers moved.
    order-1: ann, bob, hal
    order-3: cleo, dan, eve, fay, gus
An order that order-2 had booked came again: order-1 gave the same receipt.
order-2 was started again: its customers came back to it.
order-3 was restarted by SIGTERM while 96 orders came: it finished its own, and none failed.
All were stopped by SIGTERM, and left in good order.
All of it held.
"""

# -- the local form -----------------------------------------------------------------------------------


async def run_local(broker: str, **env: str) -> tuple[str, str, int | None]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", f"examples.{broker}_cluster.run_local"),
        cwd=ROOT,
        env={**os.environ, **env},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    return output.decode(), errors.decode(), process.returncode


@pytest.mark.parametrize("broker", BROKERS)
async def test_the_local_form_tells_its_story_and_all_of_it_holds(broker: str) -> None:
    assert await run_local(broker) == (STORY, "", 0)


async def test_the_local_form_says_what_did_not_hold_and_shows_the_logs(tmp_path: Path) -> None:
    (tmp_path / "uvicorn.py").write_text("raise SystemExit('no gateway today')")
    output, errors, status = await run_local("redis", PYTHONPATH=f"{tmp_path}:{ROOT / 'src'}")
    assert (errors, status) == ("", 1)
    assert "DID NOT HOLD" in output
    assert "no gateway today" in output
    assert "All of it held" not in output


@pytest.mark.parametrize("broker", BROKERS)
def test_the_readme_shows_what_the_local_form_prints(broker: str) -> None:
    assert f"```\n{STORY}```" in (ROOT / "examples" / f"{broker}_cluster" / "README.md").read_text()


@pytest.mark.parametrize("broker", BROKERS)
def test_the_links_of_the_readme_lead_somewhere(broker: str) -> None:
    readme = ROOT / "examples" / f"{broker}_cluster" / "README.md"
    links = re.findall(r"\]\(([^)]+)\)", readme.read_text())
    assert links
    assert [link for link in links if not (readme.parent / link).exists()] == []


# -- compose ------------------------------------------------------------------------------------------

TOP_LEVEL = {"name", "services", "volumes"}
KEYS = {
    *("build", "command", "depends_on", "environment", "healthcheck", "image", "init", "ports", "restart"),
    *("stop_grace_period", "stop_signal", "volumes"),
}
HEALTHCHECK = {"test", "interval", "timeout", "retries", "start_period"}
CHECKERS = {"valkey/valkey:9.1.0-alpine": "valkey-cli", "nats:2.12.2-alpine": "wget", "built": "python"}
"""The command of each image that its health check may use: Alpine's busybox has wget, nothing else has curl."""
PINNED = re.compile(r"[a-z/-]+:\d+\.\d+\.\d+(-[a-z]+)?")


def compose(broker: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "examples" / f"{broker}_cluster" / "compose.yaml").read_text())
    return content


@pytest.fixture(params=BROKERS)
def broker(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def services(broker: str) -> dict[str, Any]:
    found: dict[str, Any] = compose(broker)["services"]
    return found


def seconds(duration: str) -> float:
    assert duration.endswith("s")
    return float(duration[:-1])


def test_the_compose_file_has_a_broker_three_nodes_and_a_gateway_and_no_unknown_key(broker: str) -> None:
    content = compose(broker)
    assert {key for key in content if not key.startswith("x-")} == TOP_LEVEL
    assert sorted(content["services"]) == sorted(["broker", *PROGRAMS])
    for service in content["services"].values():
        assert service.keys() <= KEYS
        assert {volume.split(":")[0] for volume in service.get("volumes", ())} <= content["volumes"].keys()


def test_images_are_pinned(broker: str, services: dict[str, Any]) -> None:
    for service in services.values():
        assert PINNED.fullmatch(service["image"]), service["image"]
    (base,) = re.findall(r"^FROM (.+)$", DOCKERFILE.read_text(), re.MULTILINE)
    assert PINNED.fullmatch(base)
    assert "-c requirements/test.txt" in DOCKERFILE.read_text()


def test_nodes_and_gateway_are_one_image_built_once_from_what_is_there(broker: str, services: dict[str, Any]) -> None:
    assert len({services[name]["image"] for name in PROGRAMS}) == 1
    (build,) = [service["build"] for service in services.values() if "build" in service]
    context = (ROOT / "examples" / f"{broker}_cluster" / build["context"]).resolve()
    assert (context, context / build["dockerfile"], build["args"]) == (ROOT, DOCKERFILE, {"BROKER": broker})
    for sources in re.findall(r"^COPY (.+) \S+$", DOCKERFILE.read_text(), re.MULTILINE):
        assert all((ROOT / source).exists() for source in sources.split())


def test_each_health_check_uses_a_command_that_its_image_has(services: dict[str, Any]) -> None:
    for name, service in services.items():
        check = service["healthcheck"]
        assert check.keys() <= HEALTHCHECK
        kind, command = check["test"][:2]
        assert kind in ("CMD", "CMD-SHELL")
        assert command.split()[0] == CHECKERS["built" if name in PROGRAMS else service["image"]], name
        assert seconds(check["timeout"]) <= seconds(check["interval"])
        assert check["retries"] >= 1


def test_what_starts_later_waits_for_the_health_of_what_it_needs(services: dict[str, Any]) -> None:
    needs = {name: services[name].get("depends_on", {}) for name in services}
    assert {name: sorted(needs[name]) for name in services} == {
        "broker": [],
        **{name: ["broker"] for name in NODES},
        "gateway": sorted(NODES),
    }
    assert all(need == {"condition": "service_healthy"} for needed in needs.values() for need in needed.values())


def test_a_stop_is_sigterm_and_gives_the_time_to_drain(
    services: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CATGA_NODE_ID", "any")
    monkeypatch.syspath_prepend(str(ROOT))
    from examples.order_cluster.options import options

    drain = options("orders").get("drain_timeout", float("inf"))
    for service in services.values():
        assert service["stop_signal"] == "SIGTERM"
        assert "stop_grace_period" in service
    for name in PROGRAMS:
        assert services[name]["init"] is True
        assert isinstance(services[name]["command"], list)  # a shell would keep the signal to itself
        assert seconds(services[name]["stop_grace_period"]) > drain
    command = services["gateway"]["command"]
    connections = int(command[command.index("--timeout-graceful-shutdown") + 1])
    assert seconds(services["gateway"]["stop_grace_period"]) > connections + drain


def test_each_node_has_its_own_id_and_the_url_of_the_broker(broker: str, services: dict[str, Any]) -> None:
    port = {"redis": 6379, "nats": 4222}[broker]
    for name in PROGRAMS:
        assert services[name]["environment"] == {"CATGA_URL": f"{broker}://broker:{port}", "CATGA_NODE_ID": name}


def test_only_the_gateway_is_published_and_to_this_machine_alone(services: dict[str, Any]) -> None:
    assert {name: s["ports"] for name, s in services.items() if "ports" in s} == {"gateway": ["127.0.0.1:8000:8000"]}


def test_the_gateway_command_names_an_application_that_is_there(broker: str, services: dict[str, Any]) -> None:
    program, *options = services["gateway"]["command"]
    assert program == "uvicorn"
    module, _, factory = next(option for option in options if ":" in option).partition(":")
    source = (ROOT / Path(*module.split("."))).with_suffix(".py").read_text()
    assert f"def {factory}() -> Starlette" in source
    assert importlib.util.find_spec("uvicorn") is not None


def test_the_health_check_of_a_node_tells_whether_it_is_a_member(broker: str, services: dict[str, Any]) -> None:
    node = services["order-1"]
    kind, script = node["healthcheck"]["test"]
    assert kind == "CMD-SHELL"
    with SERVERS[broker]() as server:
        env = {**os.environ, "CATGA_URL": server.url, "CATGA_NODE_ID": "order-1"}
        env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"

        def is_healthy() -> bool:
            return (
                subprocess.run(["sh", "-c", script.replace("$$", "$")], cwd=ROOT, env=env, check=False).returncode == 0
            )

        assert not is_healthy()
        with subprocess.Popen(
            [sys.executable, *node["command"][1:]], cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            assert "order-1 has joined" in process.stderr.readline()
            assert is_healthy()
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        assert not is_healthy()
