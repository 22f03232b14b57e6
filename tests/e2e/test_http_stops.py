"""A gateway under uvicorn that is told to stop while it serves a request."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import httpx

from catga.testing import eventually
from catga.testing.servers import free_port

PROGRAM = """
import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import Depends, FastAPI

from catga import DistributedMediator, Mediator, Request, add_cluster
from catga.integrations.fastapi import health_routes, lifespan, mediator, respond


@dataclass(frozen=True)
class Wait(Request[str]):
    name: str


handlers = Mediator()
node = lifespan(lambda: add_cluster(handlers, "memory://stops"))
app = FastAPI(lifespan=node)
app.router.routes.extend(health_routes())


@handlers.handler
async def wait(request: Wait) -> str:
    Path(request.name, "begun").touch()
    while not Path(request.name, "go").exists():
        await asyncio.sleep(0.02)
    return "done"


@app.get("/")
async def serve(name: str, cluster: Annotated[DistributedMediator, Depends(mediator)]):
    return respond(await cluster.send(Wait(name)))
"""


async def test_a_request_that_runs_ends_before_its_server_does(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "uvicorn", "program:app", "--port", str(port), "--app-dir", str(tmp_path)),
        env=os.environ.copy(),
        stderr=asyncio.subprocess.PIPE,
    )
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60.0) as http:

        async def is_ready() -> bool:
            try:
                return (await http.get("/health/ready")).status_code == 200
            except httpx.TransportError:
                return False

        await eventually(is_ready)
        asked = asyncio.create_task(http.get("/", params={"name": str(tmp_path)}))
        await eventually((tmp_path / "begun").exists)
        process.send_signal(signal.SIGTERM)

        async def takes_no_more() -> bool:
            try:
                async with httpx.AsyncClient() as other:
                    await other.get(f"http://127.0.0.1:{port}/health/live")
            except httpx.TransportError:
                return True
            return False

        await eventually(takes_no_more)
        (tmp_path / "go").touch()
        answer = await asked
    _, log = await process.communicate()
    assert (answer.status_code, answer.json()) == (200, "done")
    assert b"Application shutdown complete" in log
    assert b"Traceback" not in log
