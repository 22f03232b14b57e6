"""Nothing compares bytes with texts or numbers: the contract holds under ``python -bb``, which makes that an error."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import asyncio, sys
from dataclasses import dataclass
from catga import Event, Mediator, Request, add_cluster

@dataclass(frozen=True)
class Double(Request[int]):
    number: int

@dataclass(frozen=True)
class Told(Event):
    text: str

def node(node_id):
    app = Mediator()
    app.handles(Double)(lambda request: 2 * request.number)
    app.handles(Told)(lambda event: None)
    return add_cluster(app, sys.argv[1], node_id=node_id, prefix="bytes", queues=True, **options)

async def main():
    async with node("a") as a, node("b"):
        await asyncio.sleep(2.5)  # probes, and questions for the server's role
        for node_id in ("a", "b"):
            print((await a.send_to_node(Double(21), node_id)).unwrap())
        (await a.publish(Told("x"))).unwrap()
        print(sorted((await a.broadcast(Told("x"))).acknowledged))

options = {"discovery": "kv"} if "kv" in sys.argv else {}
asyncio.run(main())
"""


@pytest.mark.parametrize("place", ["memory", "nats", "nats kv", "redis"])
async def test_nodes_talk_where_comparing_bytes_with_texts_is_an_error(
    place: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    backend, *more = place.split()
    url = "memory://bytes" if backend == "memory" else request.getfixturevalue(f"{backend}_url")
    (tmp_path / "talk.py").write_text(SCRIPT)
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-bb", "-W", "error::BytesWarning", str(tmp_path / "talk.py"), url, *more],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("42\n42\n['a', 'b']\n", "")
