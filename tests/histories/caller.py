"""A caller of a history: python -m tests.histories.caller URL FOLDER PLAN NODE-ID.

It makes calls by the clock, whatever becomes of them, and waits for ``calm`` and ``probe`` on its standard input.
"""

import asyncio
import random
import sys
from contextlib import suppress
from typing import Any

import msgspec
from tests.histories.plan import CallerPlan, Plan
from tests.histories.process import Calls, diary, log_of
from tests.histories.records import Change, Log, Probe, Seen, now
from tests.histories.words import CLASSES, KINDS, TIMEOUTS, read_proof

from catga import ConsistentHash, DistributedMediator, Mediator, add_cluster
from catga.routing import Queue

PROBES = 20
PROBE_TIMEOUT = 5.0
BURST_KINDS = ("calc", "think", "charge", "read", "add")
BURST_HEAP = 300
"""A burst begins with so many calls at once,"""
BURST_FACTOR = 5
"""and goes on at this many times the usual rate."""
PATIENCE = 3.0
"""Seconds after its timeout at which a call is given up, without an outcome."""


class Load:
    """Open-loop load of one caller."""

    def __init__(self, calls: Calls, plan: Plan, me: CallerPlan) -> None:
        self._calls = calls
        self._plan = plan
        self._me = me
        self._rng = random.Random(f"{plan.seed} {me.node}")
        self._tasks: set[asyncio.Task[None]] = set()
        self._count = 0

    async def run(self, begin: float) -> None:
        """Make calls until the time is over, then wait until all have ended."""
        next_at, was_burst = now(), False
        while now() < begin + self._plan.seconds:
            is_burst = self._is_burst(now() - begin)
            heap = (BURST_FACTOR if was_burst else BURST_HEAP) if is_burst else 1
            for _ in range(heap):
                self._one(is_burst)
            was_burst = is_burst
            next_at += self._rng.expovariate(self._me.rate)
            await asyncio.sleep(max(next_at - now(), 0.0))
        if self._tasks:  # those that hang are cancelled at the end, and are found by that
            await asyncio.wait(self._tasks, timeout=max(TIMEOUTS) + PATIENCE)

    def _is_burst(self, at: float) -> bool:
        return any(f.target == "load" and f.at <= at < f.at + f.lasts for f in self._plan.faults)

    def _one(self, is_burst: bool) -> None:
        rng, kinds = self._rng, BURST_KINDS if is_burst else tuple(KINDS)
        kind = KINDS[rng.choices(kinds, [KINDS[k].weight for k in kinds])[0]]
        work = rng.uniform(0.005, 0.06) if kind.work == "wait" else rng.uniform(0.002, 0.008)
        self._count += 1
        request = f"{self._me.node}-{self._count}"
        call = self._calls.call(kind.name, request, rng.choice(TIMEOUTS), work, f"key{rng.randrange(20)}")
        task = asyncio.create_task(call)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if rng.random() < self._me.cancelled:
            asyncio.get_running_loop().call_later(rng.uniform(0.0, 0.3), task.cancel)


async def main(url: str, folder: str, plan_text: str, node_id: str) -> None:
    plan = msgspec.json.decode(plan_text, type=Plan)
    me = next(caller for caller in plan.callers if caller.node == node_id)
    log = log_of(folder, node_id)
    async with _node(url, me) as node, diary(node, log):
        watching = asyncio.create_task(_watch(node, log))
        load = Load(Calls(node, log), plan, me)
        print("ready", flush=True)
        await load.run(float(await _told()))
        print("done", flush=True)
        await _told()  # the calm is over
        log.write(Seen(at=now(), caller=node_id, nodes=_seen(node)))
        log.write(await _probe(node))
        print("probed", flush=True)
        await _told()
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


def _node(url: str, me: CallerPlan) -> DistributedMediator:
    node = add_cluster(Mediator(), url, node_id=me.node, service="callers", observe_only=me.observe_only)
    for (kind, _), cls in CLASSES.items():
        if KINDS[kind].routing == "hash":
            node.route(cls, ConsistentHash())
        elif KINDS[kind].routing == "queue":
            node.route(cls, Queue())
    return node


async def _told() -> str:
    """The next line of the standard input."""
    return await asyncio.to_thread(sys.stdin.readline)


async def _watch(node: DistributedMediator, log: Log) -> None:
    async for change in node.watch():
        if change.type.value != "updated":
            reason = change.reason.value if change.reason else ""
            member = change.node
            log.write(
                Change(
                    at=now(),
                    caller=node.node_id,
                    what=change.type.value,
                    node=member.node_id,
                    incarnation=member.incarnation,
                    reason=reason,
                )
            )


def _seen(node: DistributedMediator) -> dict[str, tuple[int, str]]:
    return {member.node_id: (member.incarnation, member.state.value) for member in node.get_nodes()}


async def _probe(node: DistributedMediator) -> Probe:
    """Calls one after the other; each must succeed with the answer to itself."""
    errors: list[str] = []
    for number in range(PROBES):
        request = f"probe-{node.node_id}-{number}"
        kind = ("read", "calc", "add", "queued")[number % 4]
        result: Any = await node.send(CLASSES[kind, PROBE_TIMEOUT](request, 0.002, ""))
        if not result.is_success:
            errors.append(f"{request} ({kind}): {result.error.code}, {result.error}")
        elif read_proof(result.value).request != request:
            errors.append(f"{request} ({kind}): the answer was {result.value!r}")
    return Probe(at=now(), caller=node.node_id, sent=PROBES, errors=errors)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
