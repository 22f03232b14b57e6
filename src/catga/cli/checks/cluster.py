"""The nodes."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing

from catga._version import __version__
from catga.cli.checks import Finding, Level
from catga.cli.checks.twins import processes
from catga.cli.failures import CommandError
from catga.cli.observer import Reading, observer, read_all
from catga.cli.options import Where
from catga.cli.signatures import complaint
from catga.cli.text import counted
from catga.cluster.stats import NodeStats
from catga.errors import CatgaError
from catga.node import NodeInfo, NodeState

SKEW = 2.0
"""Seconds."""
PAUSE = 2.5
"""Seconds between two looks: a process that lost its id to another one probes some member every second."""
FULL = 0.9
ELSE = "see what became of the broker, and what it lets this account do"


async def examine(where: Where) -> AsyncGenerator[Finding, None]:
    """Signatures, members, answers, load, versions, clocks, duplicate ids, garbage; or why they cannot be looked at."""
    try:
        async with aclosing(_look(where)) as findings:
            async for finding in findings:
                yield finding
    except (CatgaError, CommandError) as error:  # of the observer
        text, _, fix = str(error).partition("; ")
        yield Finding("nodes", Level.PROBLEM, f"cannot be looked at: {text}", fix or ELSE)


async def _look(where: Where) -> AsyncGenerator[Finding, None]:
    if text := await complaint(where):
        what, _, fix = text.partition(": ")
        yield Finding("signatures", Level.PROBLEM, what, fix)
        return
    async with observer(where) as node:
        members = node.get_nodes()
        if not members:
            fix = f"is the prefix right? It is {where.prefix!r}; start one with: catga run module:mediator"
            yield Finding("nodes", Level.WARNING, "there are none", fix)
            return
        states = Counter(member.state.value for member in members)
        yield Finding("nodes", Level.OK, ", ".join(f"{count} {state}" for state, count in states.items()))
        _, shared = await asyncio.gather(asyncio.sleep(PAUSE), processes(where, members))
        members = node.get_nodes()
        readings = await read_all(node, members, detail=True)
    answered = {node_id: r.stats for node_id, r in readings.items() if r.stats is not None}
    for finding in (*answers(members, readings), *load(members), versions(answered), clocks(readings)):
        yield finding
    for finding in (*duplicates(answered, shared), *garbage(answered)):
        yield finding


def answers(members: Sequence[NodeInfo], readings: Mapping[str, Reading]) -> Iterator[Finding]:
    """Who is a member and does not answer."""
    silent = [m for m in members if readings[m.node_id].stats is None]
    if not silent:
        slowest = max(reading.seconds for reading in readings.values())
        all_of_them = "the node answers" if len(members) == 1 else f"all {len(members)} nodes answer; the slowest"
        yield Finding("answers", Level.OK, f"{all_of_them} in {slowest * 1000:.1f} ms")
    for member in silent:
        error = readings[member.node_id].error
        if member.state is NodeState.DRAINING:
            yield Finding("answers", Level.INFO, f"{member.node_id} is draining")
            continue
        fix = "its process hangs, is stopped, or blocks the event loop: look at its log, or restart it"
        if error is not None and error.code == "handler_not_found":
            fix = "its version of catga is too old to answer"
        yield Finding("answers", Level.PROBLEM, f"{member.node_id} ({member.state.value}) does not: {error}", fix)


def load(members: Sequence[NodeInfo]) -> Iterator[Finding]:
    """Who is full."""
    full = [f"{m.node_id} {m.load:.0%}" for m in members if m.load >= FULL]
    if full:
        yield Finding(
            "load", Level.WARNING, ", ".join(full), "add nodes, or raise max_concurrency if they wait for I/O"
        )
    else:
        yield Finding("load", Level.OK, f"at most {max(m.load for m in members):.0%}")


def versions(answered: Mapping[str, NodeStats]) -> Finding:
    """Whether all run one version."""
    found = Counter(stats.version for stats in answered.values())
    text = ", ".join(f"{version} ({counted(count, 'node')})" for version, count in sorted(found.items()))
    if len({*found, __version__}) > 1 and found:
        return Finding("catga", Level.WARNING, f"{text}; here {__version__}", "finish the upgrade")
    return Finding("catga", Level.OK, text or "no node told its version")


def clocks(readings: Mapping[str, Reading]) -> Finding:
    """Whether the nodes' wall clocks agree with this machine's."""
    skews = {i: r.stats.clock - r.at for i, r in readings.items() if r.stats is not None}
    if not skews:
        return Finding("clocks", Level.INFO, "no node told its time")
    worst = max(skews, key=lambda node_id: abs(skews[node_id]))
    text = f"at most {abs(skews[worst]) * 1000:.0f} ms from this machine's ({worst})"
    if abs(skews[worst]) > SKEW:
        fix = "run NTP there: a restarted node whose clock went back must first outgrow its former life"
        return Finding("clocks", Level.WARNING, text, fix)
    return Finding("clocks", Level.OK, text)


def duplicates(answered: Mapping[str, NodeStats], shared: Mapping[str, int]) -> Iterator[Finding]:
    """Ids that several living processes have: the others still hear those that were replaced, or the broker does.

    Args:
        shared: id → processes that have it, as far as the broker can tell.
    """
    ghosts = {i: 2 for stats in answered.values() for i, ago in stats.ghosts.items() if ago < PAUSE}
    found = {**ghosts, **shared}
    for node_id, number in sorted(found.items()):
        text = f"{number} processes have the id {node_id!r}; the newest works, the others take no requests"
        yield Finding("duplicate ids", Level.PROBLEM, text, "give each its own --node-id, or stop all but one")
    if not found:
        yield Finding("duplicate ids", Level.OK, "none")


def garbage(answered: Mapping[str, NodeStats]) -> Iterator[Finding]:
    """Foreign data on the cluster's subjects."""
    for node_id, stats in answered.items():
        if count := stats.counters.get("garbage", 0):
            text = f"{node_id} received {counted(count, 'message')} that catga did not write"
            yield Finding("garbage", Level.WARNING, text, "something else uses the prefix: give the cluster its own")
