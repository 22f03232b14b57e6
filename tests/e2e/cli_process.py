"""``catga`` as a process, and a caller that looks at the cluster it runs in."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

from catga import DistributedMediator, Mediator, NodeInfo, add_cluster

HERE = Path(__file__).parent
PATIENCE = 30.0


class Catga:
    """A running ``catga`` command; its output goes to files. Killed at the end, if it still runs."""

    def __init__(self, folder: Path, *args: str, cwd: Path = HERE, **env: str) -> None:
        self._out, self._err = folder / "out", folder / "err"
        with self._out.open("w") as out, self._err.open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "catga.cli", *args],
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={**os.environ, **env},
            )

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    async def ended(self) -> int:
        """Its exit status."""
        try:
            return await asyncio.to_thread(self.process.wait, PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running: {self.out}\n{self.err}") from None

    def wait_for_line(self, text: str = "") -> str:
        """The first line of stdout that has `text`."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self.process.poll() is None:
            for line in self.out.splitlines(keepends=True):
                if text in line and line.endswith("\n"):
                    return line
            time.sleep(0.02)
        raise AssertionError(f"no line with {text!r}: {self.out}\n{self.err}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


def caller(url: str, prefix: str) -> DistributedMediator:
    return add_cluster(Mediator(), url, prefix=prefix, probe_interval=0.2, observe_only=True)


def member(node: DistributedMediator, node_id: str) -> NodeInfo | None:
    return next((n for n in node.get_nodes() if n.node_id == node_id), None)
