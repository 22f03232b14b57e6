"""Over a broker: calls a second, latency and CPU per call of catga and its peers.

    python -m bench.rpc [--quick] [--only SYSTEM,SYSTEM] [--rounds N] [--cells 1,32,256] [--sizes 100,4096]

A worker and a caller process for each system, all alive at once, one at work at a time: in each round every
system runs each cell (concurrency and payload) in turn, and ratios are taken within a round.
"""

import argparse
import importlib.util
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from bench import envs
from bench.common import ROOT, child_env, cpu_seconds, nats_server, redis_server, say, table, verdict

SYSTEMS = ROOT / "bench" / "systems"
START_TIMEOUT = 20.0
BASE = "nats-py"
Cell = tuple[int, int]
"""(concurrency, payload bytes)"""


@dataclass
class System:
    """One thing to measure: its script, its broker, the environment that runs it."""

    name: str
    script: str
    broker: str
    env: str = ""
    variant: str = ""
    profile: str = ""

    def command(self, role: str, url: str) -> list[str] | None:
        """How to start it; None where its environment cannot be made."""
        script = str(SYSTEMS / self.script)
        if self.script.endswith(".cjs"):
            return None if envs.node(self.env) is None else ["node", script, role, url]
        interpreter = envs.python(self.env) if self.env else Path(sys.executable)
        return None if interpreter is None else [str(interpreter), script, role, url, self.variant]

    def environment(self) -> dict[str, str]:
        """Its environment variables."""
        return child_env(NODE_PATH=str(envs.ENVS / self.env / "node_modules"), BENCH_PROFILE=self.profile)


ALL = (
    System(BASE, "rpc_nats_raw.py", "nats"),
    System("floor NATS", "rpc_floor.py", "nats"),
    System("catga NATS", "rpc_catga.py", "nats", variant="async"),
    System("catga NATS def", "rpc_catga.py", "nats", variant="def"),
    System("catga NATS dataclass", "rpc_catga.py", "nats", variant="dataclass"),
    System("nats.micro", "rpc_nats_micro.py", "nats"),
    System("FastStream NATS", "rpc_faststream.py", "nats", env="faststream"),
    System("Moleculer NATS", "rpc_moleculer.cjs", "nats", env="moleculer"),
    System("moleculerpy NATS", "rpc_moleculerpy.py", "nats", env="moleculerpy"),
    System("redis-py", "rpc_redis_raw.py", "redis"),
    System("floor Redis", "rpc_floor.py", "redis"),
    System("catga Redis", "rpc_catga.py", "redis", variant="async"),
    System("catga Redis def", "rpc_catga.py", "redis", variant="def"),
    System("catga Redis dataclass", "rpc_catga.py", "redis", variant="dataclass"),
    System("FastStream Redis", "rpc_faststream.py", "redis", env="faststream"),
    System("Moleculer Redis", "rpc_moleculer.cjs", "redis", env="moleculer"),
    System("moleculerpy Redis", "rpc_moleculerpy.py", "redis", env="moleculerpy"),
)


@dataclass
class Sample:
    """One cell of one round."""

    rate: float
    p50: float
    p99: float
    errors: int
    caller_us: float
    worker_us: float
    broker_us: float


@dataclass
class Results:
    """Everything measured: samples by cell and system, and what did not run."""

    samples: dict[Cell, dict[str, list[Sample | None]]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def ratio(self, cell: Cell, name: str, base: str, attribute: str = "rate") -> float:
        """The median over the rounds of name / base; NaN where one of them has no sample."""
        by_system = self.samples[cell]
        pairs = zip(by_system.get(name, []), by_system.get(base, []), strict=False)
        values = [getattr(a, attribute) / getattr(b, attribute) for a, b in pairs if a and b and getattr(b, attribute)]
        return median(values) if values else float("nan")

    def median(self, cell: Cell, name: str, attribute: str) -> float:
        """The median over the rounds."""
        values = [getattr(s, attribute) for s in self.samples[cell].get(name, []) if s]
        return median(values) if values else float("nan")


class Failed(Exception):
    """A system does not start, or does not answer."""


class Pair:
    """A running worker and caller of one system."""

    def __init__(self, system: System, url: str, broker: int) -> None:
        self.system = system
        self.broker = broker
        self._processes: list[subprocess.Popen[str]] = []
        try:
            self.worker = self._start("worker", url)
            self.caller = self._start("caller", url)
        except BaseException:
            self.stop()
            raise

    def measure(self, cell: Cell, seconds: float) -> Sample:
        """Run one cell. Raises `Failed`."""
        assert self.caller.stdin is not None
        before = [cpu_seconds(pid) for pid in (self.worker.pid, self.broker)]
        order = {"concurrency": cell[0], "size": cell[1], "seconds": seconds}
        try:
            self.caller.stdin.write(json.dumps(order) + "\n")
            self.caller.stdin.flush()
        except BrokenPipeError as error:
            raise Failed(f"the caller ended with status {self.caller.poll()}") from error
        found = json.loads(self._line(self.caller, seconds + 15))
        worker, broker = (cpu_seconds(p) - b for p, b in zip((self.worker.pid, self.broker), before, strict=True))
        if not found["calls"]:
            raise Failed(found["error"] or "no call succeeded")
        # The unmeasured warm-up is in the CPU of worker and broker too: count its calls in.
        calls = found["calls"] * (1 + 0.15 / seconds)
        return Sample(
            rate=found["calls"] / found["seconds"],
            p50=found["p50"],
            p99=found["p99"],
            errors=found["errors"],
            caller_us=found["cpu"] / found["calls"] * 1e6,
            worker_us=worker / calls * 1e6,
            broker_us=broker / calls * 1e6,
        )

    def stop(self) -> None:
        """End both processes."""
        for process in self._processes:
            process.kill()
            process.wait()

    def _start(self, role: str, url: str) -> "subprocess.Popen[str]":
        command = self.system.command(role, url)
        if command is None:
            raise Failed("could not be installed")
        process = subprocess.Popen(
            command,
            env=self.system.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(ROOT / "bench" / ".envs" / "errors.log").open("a"),
            text=True,
        )
        self._processes.append(process)
        while self._line(process, START_TIMEOUT).strip() != "ready":
            pass  # what a library prints at its start
        return process

    def _line(self, process: "subprocess.Popen[str]", timeout: float) -> str:
        assert process.stdout is not None
        deadline = time.monotonic() + timeout
        while not select.select([process.stdout], [], [], 0.5)[0]:
            if time.monotonic() > deadline:
                raise Failed(f"no answer within {timeout:g} s")
        line = process.stdout.readline()
        if not line:
            raise Failed(f"ended with status {process.wait(5)}")
        return line


def _reason_to_skip(system: System) -> str:
    if system.script == "rpc_catga.py" and importlib.util.find_spec(f"catga.backends.{system.broker}") is None:
        return f"catga has no {system.broker} backend in this tree"
    return ""


@contextmanager
def _pairs(systems: Sequence[System], results: Results) -> Iterator[list[Pair]]:
    envs.ENVS.mkdir(exist_ok=True)
    with ExitStack() as stack:
        brokers = {"nats": stack.enter_context(nats_server())}
        if any(system.broker == "redis" for system in systems):
            brokers["redis"] = stack.enter_context(redis_server())
        pairs: list[Pair] = []
        for system in systems:
            reason = _reason_to_skip(system)
            if not reason:
                try:
                    pair = Pair(system, *brokers[system.broker])
                    stack.callback(pair.stop)
                    pair.measure((1, 100), 0.2)
                    pairs.append(pair)
                except (Failed, FileNotFoundError) as error:
                    reason = str(error)
            if reason:
                say("rpc:", system.name, "skipped:", reason)
                results.skipped[system.name] = reason
        yield pairs


def run(
    *,
    quick: bool = False,
    only: Sequence[str] = (),
    rounds: int | None = None,
    cells: Sequence[int] = (1, 32, 256),
    sizes: Sequence[int] = (100, 4096),
    seconds: float = 1.0,
) -> Results:
    """All systems, or those named in `only` (and the base)."""
    systems = [s for s in ALL if not only or s.name == BASE or s.name in only]
    rounds = rounds or (3 if quick else 7)
    seconds = 0.5 if quick else seconds
    results = Results({(c, size): {s.name: [] for s in systems} for size in sizes for c in cells})
    with _pairs(systems, results) as pairs:
        for number in range(rounds):
            say(f"rpc: round {number + 1} of {rounds}, load {os.getloadavg()[0]:.1f}")
            for cell, by_system in results.samples.items():
                for pair in pairs:
                    by_system[pair.system.name].append(_sample(pair, cell, seconds, results))
    return results


def _sample(pair: Pair, cell: Cell, seconds: float, results: Results) -> Sample | None:
    if pair.system.name in results.skipped:
        return None
    try:
        return pair.measure(cell, seconds)
    except Failed as error:
        say("rpc:", pair.system.name, cell, error)
        results.skipped[pair.system.name] = f"failed at concurrency {cell[0]}: {error}"
        return None


# -- the page ---------------------------------------------------------------------------------------------

TARGETS: tuple[tuple[str, str, tuple[tuple[int, float], ...]], ...] = (
    ("catga NATS", BASE, ((1, 0.85), (32, 2.2), (256, 3.0))),
    ("catga Redis", BASE, ((1, 0.7), (32, 1.7), (256, 1.7))),
    ("catga NATS", "FastStream NATS", ((32, 8.0),)),
    ("catga Redis", "FastStream Redis", ((32, 50.0),)),
    ("catga NATS", "Moleculer NATS", ((32, 1.0), (256, 1.0))),
    ("catga NATS", "moleculerpy NATS", ((32, 1.0), (256, 1.0))),
    ("catga Redis", "Moleculer Redis", ((32, 1.0), (256, 1.0))),
    ("catga Redis", "moleculerpy Redis", ((32, 1.0), (256, 1.0))),
)


def report(results: Results) -> str:
    """The section of the page."""
    text = "Caller and worker are processes of their own, all on uvloop (Moleculer on Node); an echo of the payload.\n"
    text += (
        f"`×` is calls per second over raw nats-py in the same round. `{BASE}` and `redis-py` are the raw clients.\n"
        "`floor` is futures and batches on catga's own transport, and nothing else: no routing, failover, deadlines,\n"
        "types, results, statistics, bounds or tasks, so what a broker, its client and the event loop cost alone.\n"
        "catga's handlers are `async`, or plain functions (`def`); its messages are msgspec Structs, or frozen\n"
        "dataclasses (`dataclass`), the slowest to make. The raw clients, FastStream and `floor` carry bytes or text.\n"
    )
    for size in sorted({size for _, size in results.samples}):
        text += f"\n### Payload {size} B\n\n" + _cells(results, size)
    text += "\n### Targets\n\n" + _targets(results)
    for name, reason in results.skipped.items():
        text += f"\nNot measured: {name}: {reason}.\n"
    return text


def _cells(results: Results, size: int) -> str:
    header = ["system", "c", "calls/s", "×", "p50 ms", "p99 ms", "caller µs", "worker µs", "broker µs", "errors"]
    rows: list[list[object]] = []
    for cell in (c for c in results.samples if c[1] == size):
        for name, samples in results.samples[cell].items():
            if any(samples):
                rows.append(_row(results, cell, name))
    return table(header, rows)


def _row(results: Results, cell: Cell, name: str) -> list[object]:
    def of(attribute: str) -> float:
        return results.median(cell, name, attribute)

    errors = sum(s.errors for s in results.samples[cell][name] if s)
    times = [f"{of('p50'):.2f}", f"{of('p99'):.2f}"]
    costs = [f"{of(which):.1f}" for which in ("caller_us", "worker_us", "broker_us")]
    return [name, cell[0], f"{of('rate'):,.0f}", f"{results.ratio(cell, name, BASE):.2f}", *times, *costs, errors]


def _targets(results: Results) -> str:
    rows: list[list[object]] = []

    def add(text: str, cell: Cell, value: float, limit: float, *, at_most: bool = False) -> None:
        sign = "≤" if at_most else "≥"
        judged = "not measured" if value != value else verdict(value, limit, at_most=at_most)
        rows.append([text, cell[0], f"{sign} {limit:g} ×", f"{value:.2f} ×", judged])

    for name, base, limits in TARGETS:
        for concurrency, limit in limits:
            cell = (concurrency, 100)
            if cell in results.samples:
                add(f"calls/s, {name} against {base}", cell, results.ratio(cell, name, base), limit)
    if (32, 100) in results.samples:
        for name in ("catga NATS", "catga Redis"):
            value = results.ratio((32, 100), name, BASE, "p99")
            add(f"p99, {name} against {BASE}", (32, 100), value, 1.0, at_most=True)
    return table(["target", "c", "limit", "measured", ""], rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--cells", default="1,32,256")
    parser.add_argument("--sizes", default="100,4096")
    given: Any = parser.parse_args(arguments)
    results = run(
        quick=given.quick,
        only=[name for name in given.only.split(",") if name],
        rounds=given.rounds,
        cells=[int(c) for c in given.cells.split(",")],
        sizes=[int(s) for s in given.sizes.split(",")],
        seconds=given.seconds,
    )
    print(report(results))


if __name__ == "__main__":
    main()
