"""Where a call's time goes: CPU samples of caller and worker, by layer.

    python -m bench.layers [--system "catga NATS"] [--concurrency 256] [--seconds 5] [--functions 30]

The processes are those of `bench.rpc`; each is interrupted every millisecond of its CPU time, and the sample counts for
the Python function that runs then, what it calls in C included. (Python looks for signals when a function
begins, so what the event loop does before a task goes on counts for the function that the task calls next.)
"""

import argparse
import json
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bench import rpc
from bench.common import nats_server, redis_server, table

LAYERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("the benchmark's own loop", ("/bench/systems/",)),
    ("choice of the node, failover, statistics", ("/catga/cluster/", "/catga/routing/")),
    ("messages to bytes and back", ("/catga/codec/", "<string>", "/catga/messages.py")),
    ("pipeline and result", ("/catga/mediator/", "/catga/result.py")),
    ("calls: pending, replies, deadlines", ("/catga/rpc/client.py", "/catga/rpc/deadlines.py")),
    (
        "calls: admission, tasks, answers kept",
        ("/catga/rpc/server.py", "/catga/rpc/runner.py", "/catga/rpc/answers.py"),
    ),
    ("latency histogram", ("/catga/rpc/tally.py",)),
    ("batches", ("/catga/rpc/",)),
    ("signs of life", ("/catga/membership/",)),
    ("client library, and catga's use of it", ("/nats/", "/catga/backends/", "/redis/")),
    ("event loop, tasks, system calls", ("",)),
)
"""What a sample counts for: the first whose part is in the file's name."""


def layer(function: str) -> str:
    """The layer of a function, given as ``file:qualname``."""
    return next(name for name, parts in LAYERS if any(part in function for part in parts))


def measure(system: rpc.System, concurrency: int, seconds: float, functions: int = 0) -> str:
    """The tables for one system: of its layers, and of the `functions` that cost most."""
    with (
        (nats_server if system.broker == "nats" else redis_server)() as (url, pid),
        tempfile.TemporaryDirectory() as at,
    ):
        system.profile = str(Path(at) / "samples")
        pair = rpc.Pair(system, url, pid)
        try:
            sample = pair.measure((concurrency, 100), seconds)
            for process in (pair.worker, pair.caller):
                process.send_signal(signal.SIGUSR1)
            counts = {role: _samples(Path(f"{system.profile}.{role}")) for role in ("caller", "worker")}
        finally:
            pair.stop()
    costs = {"caller": sample.caller_us, "worker": sample.worker_us}
    rows: list[list[object]] = []
    for name, _ in LAYERS:
        shares = {role: _count(counted, name) / counted.total() for role, counted in counts.items()}
        if any(share >= 0.002 for share in shares.values()):
            rows.append([name, *(f"{costs[role] * share:.1f} ({share:.0%})" for role, share in shares.items())])
    rows.append(["all", *(f"{cost:.1f}" for cost in costs.values())])
    text = table([f"{system.name}, {concurrency} in flight", "caller, µs a call", "worker, µs a call"], rows)
    for role, counted in counts.items() if functions else ():
        top = [(_short(name), f"{costs[role] * n / counted.total():.2f}") for name, n in counted.most_common(functions)]
        text += "\n" + table([role, "µs a call"], top)
    return text


def _count(counted: Counter[str], name: str) -> int:
    return sum(n for function, n in counted.items() if layer(function) == name)


def _short(function: str) -> str:
    return "/".join(function.split("/")[-2:])


def _samples(path: Path) -> Counter[str]:
    deadline = time.monotonic() + 10
    while not path.exists():
        if time.monotonic() > deadline:
            raise rpc.Failed("no samples")
        time.sleep(0.05)
    return Counter(json.loads(path.read_text()))


def report(
    systems: Sequence[str] = ("catga NATS", "floor NATS"),
    concurrency: int = 256,
    seconds: float = 5.0,
    functions: int = 0,
) -> str:
    """The section of the page."""
    text = "CPU time of the same processes, sampled by the file of the running function (`python -m bench.layers`).\n"
    text += "What the loop does to wake a task counts for the function that the task calls next.\n"
    for system in rpc.ALL:
        if system.name in systems:
            text += "\n" + measure(system, concurrency, seconds, functions)
    return text


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--system", default="catga NATS")
    parser.add_argument("--concurrency", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--functions", type=int, default=0)
    given = parser.parse_args()
    print(report([given.system], given.concurrency, given.seconds, given.functions))


if __name__ == "__main__":
    main()
