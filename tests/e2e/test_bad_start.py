"""What goes wrong before a node has joined: clear errors, in a bounded time, without a password in them."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from catga import Mediator, add_cluster
from catga.errors import ClusterError, MissingExtraError
from catga.testing.servers import NatsServer, RedisServer, Server, free_port


@pytest.mark.parametrize("scheme", ["nats", "redis"])
async def test_an_absent_broker_is_an_error_within_the_connect_timeout(scheme: str) -> None:
    url = f"{scheme}://ann:s3cret@127.0.0.1:{free_port()}"
    node = add_cluster(Mediator(), url, connect_timeout=0.5)
    async with asyncio.timeout(10):  # generous: it is the bound of a hang, not a measurement
        with pytest.raises(ClusterError) as caught:
            await node.start()
    text = f"{caught.value} {caught.value.__cause__}"
    assert url.rpartition("@")[2] in text
    assert "s3cret" not in text


async def test_a_broker_that_comes_late_is_waited_for() -> None:
    port = free_port()
    node = add_cluster(Mediator(), f"nats://127.0.0.1:{port}", connect_timeout=30.0)
    starting = asyncio.create_task(node.start())
    async with NatsServer(port=port):
        await starting
        assert [member.node_id for member in node.get_nodes()] == [node.node_id]
        await node.stop()


@pytest.mark.parametrize("kind", [NatsServer, RedisServer])
async def test_a_wrong_password_is_told_as_such(kind: type[Server]) -> None:
    users = {"user": "ann"} if kind is NatsServer else {}
    async with kind(password="right", **users) as server:  # type: ignore[call-arg]
        url = server.url.replace("right", "wr0ng")
        with pytest.raises(ClusterError) as caught:
            await add_cluster(Mediator(), url, connect_timeout=5.0).start()
        text = str(caught.value).lower()
        assert any(word in text for word in ("credentials", "password", "authori", "auth"))
        assert "wr0ng" not in text
        node = add_cluster(Mediator(), server.url)
        await node.start()
        await node.stop()


@pytest.mark.parametrize("url", ["amqp://x", "x", "", "://", "natz://127.0.0.1"])
def test_an_unknown_scheme_names_those_that_exist(url: str) -> None:
    with pytest.raises((ClusterError, ValueError), match="memory://"):
        add_cluster(Mediator(), url)


@pytest.mark.parametrize(("scheme", "library"), [("nats", "nats"), ("redis", "redis")])
def test_a_missing_client_library_is_told_with_the_install_line(scheme: str, library: str) -> None:
    code = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {library!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocked())
from catga import Mediator, add_cluster
from catga.errors import MissingExtraError
try:
    add_cluster(Mediator(), "{scheme}://127.0.0.1")
except MissingExtraError as error:
    print(isinstance(error, ImportError), error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.startswith("True ")
    assert f"pip install 'catga[{scheme}]'" in done.stdout
    assert issubclass(MissingExtraError, ImportError)


BACKEND = """
from catga.abc import BackendSettings
from catga.backends.memory import open_backend as memory
import msgspec

def open_backend(settings: BackendSettings):
    assert settings.options == {"color": "blue"}
    return memory(msgspec.structs.replace(settings, url="memory://own", options={}))
"""


async def test_another_package_adds_a_scheme_by_an_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ownbus.py").write_text(BACKEND)
    info = tmp_path / "ownbus-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ownbus\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[catga.backends]\nown = ownbus:open_backend\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    async with add_cluster(Mediator(), "own://x", node_id="a", color="blue") as node:
        assert [member.node_id for member in node.get_nodes()] == ["a"]
    with pytest.raises(ClusterError, match="own://"):
        add_cluster(Mediator(), "unknown://x")
