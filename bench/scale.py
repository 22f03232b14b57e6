"""Large clusters: what membership costs, and how fast a join and a crash get round.

    python -m bench.scale [--quick] [--nodes 10,100,300,1000] [--broker nats,redis]

Nodes are `DistributedMediator`s with default settings, each with its own connection to a real broker, many to a
process. A join is a new process with one node; a crash is SIGKILL to it.
"""

import argparse
import importlib.util
import json
import math
import select
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any
from urllib.parse import urlsplit

from bench.common import ROOT, child_env, cpu_seconds, free_port, nats_server, redis_server, say, table, verdict

HOST = ROOT / "bench" / "systems" / "scale_host.py"
PER_PROCESS = 150
SETTLE = 5.0
WINDOW = 40.0
"""Seconds: each node reconciles at least once within them (rule 7: every quarter of the ttl, ± 20 %)."""
Counters = dict[str, float]


@dataclass
class Result:
    """One size on one broker. Times are seconds, a trial each: until the median node, and until the last one, knew."""

    broker: str
    nodes: int
    note: str = ""
    sent: float = 0.0
    delivered: float = 0.0
    bytes: float = 0.0
    broker_cpu: float = 0.0
    node_cpu: float = 0.0
    joined: float = 0.0
    formed: float = 0.0
    joins: list[tuple[float, float]] = field(default_factory=list)
    crashes: list[tuple[float, float]] = field(default_factory=list)


class Host:
    """A process with some of the nodes."""

    def __init__(self, url: str, first: int, count: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(HOST), url, str(first), str(count)],
            env=child_env(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def line(self, timeout: float) -> str:
        """The next line it prints."""
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], timeout)[0]:
            raise TimeoutError(f"a host said nothing for {timeout:g} s")
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("a host died")
        return line.strip()

    def order(self, **order: object) -> None:
        """Give it an order."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()


def measure(broker: str, count: int, *, trials: int) -> Result:
    """One size on one broker."""
    result = Result(broker, count)
    with _broker(broker) as (url, pid, counters):
        before, start = counters(), time.monotonic()
        hosts = [Host(url, first, min(PER_PROCESS, count - first)) for first in range(0, count, PER_PROCESS)]
        try:
            for host in hosts:
                host.line(60 + count)
            result.joined = time.monotonic() - start
            result.formed = _until_complete(hosts, count, 60 + count / 5) - start
            time.sleep(SETTLE)
            sent, took = counters()["in"] - before["in"], time.monotonic() - start
            say(f"scale: {sent / count:.1f} messages a node in the first {took:.1f} s")
            _steady(result, hosts, pid, counters)
            for trial in range(trials):
                _trial(result, hosts, url, 90_000 + trial)
        except (TimeoutError, RuntimeError) as error:
            result.note = str(error)
        finally:
            for host in hosts:
                host.kill()
    return result


def _until_complete(hosts: Sequence[Host], count: int, timeout: float) -> float:
    """The time at which every node saw every other."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        for host in hosts:
            host.order(census=True)
        seen = [members for host in hosts for members in json.loads(host.line(60))]
        if min(seen) == count:
            return time.monotonic()
        time.sleep(0.5)
    raise TimeoutError(f"the views were not complete {timeout:g} s after the last join")


def _steady(result: Result, hosts: Sequence[Host], pid: int, counters: Callable[[], Counters]) -> None:
    def cpu() -> tuple[float, float]:
        return cpu_seconds(pid), sum(cpu_seconds(host.process.pid) for host in hosts)

    before, (broker, nodes), start = counters(), cpu(), time.monotonic()
    time.sleep(WINDOW)
    after, (broker_after, nodes_after), took = counters(), cpu(), time.monotonic() - start
    delta = {name: (after[name] - before[name]) / took for name in before}
    result.sent = delta["in"] / result.nodes
    result.delivered = delta["out"] / result.nodes
    result.bytes = delta["bytes"]
    result.broker_cpu = (broker_after - broker) / took * 100
    result.node_cpu = (nodes_after - nodes) / took * 100


def _trial(result: Result, hosts: Sequence[Host], url: str, number: int) -> None:
    """One node joins, and is killed."""
    name = f"n{number:04}"
    _watch(hosts, name, present=True)
    victim = Host(url, number, 1)
    try:
        victim.line(60)
        joined = time.monotonic()  # `start` has returned: the members are said to know it now
        result.joins.append(_collect(hosts, joined))
        time.sleep(2)
        _watch(hosts, name, present=False)
        crashed = time.monotonic()
        victim.kill()
        result.crashes.append(_collect(hosts, crashed))
    finally:
        victim.kill()


def _watch(hosts: Sequence[Host], name: str, *, present: bool) -> None:
    for host in hosts:
        host.order(node=name, present=present, timeout=40)
    for host in hosts:
        if host.line(20) != "watching":
            raise RuntimeError("a host does not watch")


def _collect(hosts: Sequence[Host], since: float) -> tuple[float, float]:
    times = [time for host in hosts for time in json.loads(host.line(60))]
    if None in times:
        raise TimeoutError(f"{times.count(None)} nodes did not notice within 40 s")
    late = [max(at - since, 0.0) for at in times]
    return median(late), max(late)


# -- brokers and their counters -----------------------------------------------------------------------------


@contextmanager
def _broker(name: str) -> Any:
    if name == "nats":
        port = free_port()
        with nats_server("-m", str(port)) as (url, pid):
            yield url, pid, lambda: _nats_counters(port)
    else:
        with redis_server() as (url, pid):
            yield url, pid, lambda: _redis_counters(url)


def _nats_counters(port: int) -> Counters:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/varz", timeout=10) as answer:
        varz = json.load(answer)
    return {"in": varz["in_msgs"], "out": varz["out_msgs"], "bytes": varz["in_bytes"] + varz["out_bytes"]}


def _redis_counters(url: str) -> Counters:
    """Commands stand for messages in; a server does not count deliveries."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 6379), timeout=10) as link:
        link.sendall(b"INFO stats\r\nQUIT\r\n")
        text = b"".join(iter(lambda: link.recv(65536), b"")).decode()
    stats = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    traffic = int(stats["total_net_input_bytes"]) + int(stats["total_net_output_bytes"])
    return {"in": int(stats["total_commands_processed"]), "out": float("nan"), "bytes": traffic}


# -- the page -----------------------------------------------------------------------------------------------


def run(*, quick: bool = False, sizes: Sequence[int] = (), brokers: Sequence[str] = ("nats", "redis")) -> list[Result]:
    """All sizes on all brokers that this tree has."""
    sizes = sizes or ((10, 100) if quick else (10, 100, 300, 1000))
    results: list[Result] = []
    for broker in brokers:
        if importlib.util.find_spec(f"catga.backends.{broker}") is None:
            results.append(Result(broker, 0, "no such backend in this tree"))
            continue
        for count in sizes:
            say(f"scale: {count} nodes on {broker}")
            results.append(measure(broker, count, trials=2 if quick else 5))
    return results


def report(results: Sequence[Result]) -> str:
    """The section of the page."""
    header = ["broker", "nodes", "sent /s·node", "delivered /s·node", "kB/s", "broker CPU %", "all nodes CPU %"]
    header += ["all joined / views complete s", "join: median / last node s", "crash: median / last node s", ""]
    rows = [_row(result) for result in results]
    text = (
        "An idle cluster with default settings. `sent` and `delivered` are messages a second and node at the broker.\n"
        "On Redis `sent` are commands, those in scripts included: to reconcile is three, a heartbeat five.\n"
        "In the time measured each node reconciles at least once. Times are medians of the trials, until the median\n"
        "node and until the last node knew.\n\n"
    )
    text += table(header, rows)
    for result in results:
        if result.nodes == 300 and result.crashes:
            last = median(last for _, last in result.crashes)
            targets = [
                ["crash noticed by all", "≤ 3 s", f"{last:.2f} s", verdict(last, 3.0)],
                ["messages a second and node", "≤ 4", f"{result.sent:.2f}", verdict(result.sent, 4.0)],
            ]
            text += f"\nAt 300 nodes on {result.broker}:\n\n" + table(["target", "limit", "measured", ""], targets)
    return text


def _row(result: Result) -> list[object]:
    if not result.sent:
        return [result.broker, result.nodes or "-", *["-"] * 8, result.note]
    return [
        result.broker,
        result.nodes,
        f"{result.sent:.2f}",
        "-" if math.isnan(result.delivered) else f"{result.delivered:.2f}",
        f"{result.bytes / 1000:.1f}",
        f"{result.broker_cpu:.1f}",
        f"{result.node_cpu:.1f}",
        f"{result.joined:.1f} / {result.formed:.1f}",
        _times(result.joins),
        _times(result.crashes),
        result.note,
    ]


def _times(trials: Sequence[tuple[float, float]]) -> str:
    if not trials:
        return "-"
    return f"{median(m for m, _ in trials):.2f} / {median(last for _, last in trials):.2f}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--nodes", default="")
    parser.add_argument("--broker", default="nats,redis")
    given = parser.parse_args()
    sizes = [int(count) for count in given.nodes.split(",") if count]
    print(report(run(quick=given.quick, sizes=sizes, brokers=given.broker.split(","))))


if __name__ == "__main__":
    main()
