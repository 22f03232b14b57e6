"""A worker script and a caller in another process, over a real broker."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from catga.testing.servers import NatsServer

WORKER = """
import asyncio, sys
from dataclasses import dataclass
from catga import Mediator, Request, add_cluster

app = Mediator()

@dataclass(frozen=True, slots=True)
class Greet(Request[str]):
    name: str

@app.handler
async def greet(request: Greet) -> str:
    return f"Hello {request.name}"

async def main() -> None:
    async with add_cluster(app, sys.argv[1], node_id="worker", prefix=sys.argv[2]):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)

if __name__ == "__main__":
    asyncio.run(main())
"""

CALLER = """
import asyncio, sys
from greeter import Greet
from catga import Mediator, add_cluster

async def main() -> None:
    async with add_cluster(Mediator(), sys.argv[1], node_id="caller", prefix=sys.argv[2]) as node:
        result = await node.send(Greet("World"))
        print(result.unwrap(), result.metadata.node_id, flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("start", [["greeter.py"], ["-m", "greeter"]], ids=["script", "module"])
async def test_names_agree_though_the_worker_is_main(nats_server: NatsServer, tmp_path: Path, start: list[str]) -> None:
    """The worker's messages live in its ``__main__``; the caller imports the same file as a module."""
    (tmp_path / "greeter.py").write_text(WORKER)
    (tmp_path / "caller.py").write_text(CALLER)
    arguments = [nats_server.url, f"t-{tmp_path.name}-{start[0].strip('-.')}".replace(".", "-")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "cwd": tmp_path}
    worker = await asyncio.create_subprocess_exec(sys.executable, *start, *arguments, **pipes)  # type: ignore[arg-type]
    try:
        assert worker.stdin is not None
        assert worker.stdout is not None
        assert (await asyncio.wait_for(worker.stdout.readline(), 30)).strip() == b"ready"
        caller = await asyncio.create_subprocess_exec(sys.executable, "caller.py", *arguments, **pipes)  # type: ignore[arg-type]
        output, _ = await asyncio.wait_for(caller.communicate(), 30)
        assert output.decode().split() == ["Hello", "World", "worker"]
        worker.stdin.close()  # ends the worker gracefully
        assert await asyncio.wait_for(worker.wait(), 30) == 0
    finally:
        if worker.returncode is None:
            worker.kill()
            await worker.wait()
