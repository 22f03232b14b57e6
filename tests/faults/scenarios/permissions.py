"""A reload of the NATS server takes one permission for half a second: the server ends subscriptions for good, and drops
what may not be published."""

import asyncio
import time
from functools import partial
from typing import Any

from harness import FaultCluster
from messages import Work

from catga.testing.servers import NatsServer
from scenarios.base import SCENARIOS, Run, Scenario, seconds_until, under_load

SUBJECTS = {
    "subscribe": ("inbox", "reply", "bounce", "nodes", "sync"),
    "publish": ("inbox", "reply", "nodes", "sync"),
}


def permissions(verb: str = "", subject: str = "") -> str:
    """A configuration in which the user may do everything but this."""

    def allowed(each: str) -> str:
        deny = f', deny: [ "catga.{subject}", "catga.{subject}.>" ]' if each == verb else ""
        return f'{each}: {{ allow: "catga.>" {deny} }}'

    user = f"user: orders, password: secret, permissions: {{ {allowed('publish')}, {allowed('subscribe')} }}"
    return f"authorization {{ users: [ {{ {user} }} ] }}"


async def _taken(run: Run, verb: str, subject: str) -> None:
    """Take the permission for 0.5 s under load. 5 s after its return all is as before: requests succeed, a crash is
    noticed, and who joins knows all and is known to all."""
    url = f"nats://orders:secret@127.0.0.1:{run.server.port}"
    async with FaultCluster(run.server, url=url) as cluster:
        await cluster.start()
        await cluster.settled()
        reasons, returned = set[str](), 0.0

        async def take() -> None:
            nonlocal returned
            run.server.reload(permissions(verb, subject))
            for _ in range(25):
                await asyncio.sleep(0.02)
                reasons.update(caller.not_ready or "" for caller in cluster.callers)
            run.server.reload(permissions())
            returned = time.monotonic()

        report, _ = await under_load(run, cluster, Work, take, 9.5)
        failed = [a for a in report.failed if a.sent > returned + 5.0]
        run.must(not failed, f"requests succeed again, {len(failed)} did not")
        if verb == "subscribe":
            run.must(bool(reasons - {""}), "not_ready says why meanwhile")
        if (verb, subject) == ("publish", "inbox"):  # the server says so of each call
            run.must(not report.failed, f"what it refused is sent again, {len(report.failed)} were not")
        await _is_as_before(run, cluster)


async def _is_as_before(run: Run, cluster: FaultCluster) -> None:
    began = time.monotonic()
    await cluster.kill("n2")
    # Where nobody calls it chance decides who pings it first, up to a round of all members later.
    calls = [caller.send(Work(-number)) for caller in cluster.callers for number in range(1, 10)]
    results = await asyncio.gather(*calls)
    run.must(all(result.is_success for result in results), "calls at the moment of a crash succeed")

    async def noticed() -> bool:
        return all("n2" not in {n.node_id for n in member.get_nodes()} for member in cluster.members)

    run.detection = await seconds_until(noticed, began, 3.0 * max(run.patience, 3.0))
    run.within(run.detection, 3.0, "a crash is noticed")
    joined = time.monotonic()
    await cluster.add("n4")
    run.recovery = await seconds_until(cluster.is_whole, joined, 5.0 * max(run.patience, 3.0))
    run.within(run.recovery, 5.0, "who joins knows all, and is known")


def _register() -> None:
    for verb, subjects in SUBJECTS.items():
        for subject in subjects:
            play: Any = partial(_taken, verb=verb, subject=subject)
            SCENARIOS[f"permission_{verb}_{subject}"] = Scenario(
                f"A reload takes the permission to {verb} `{subject}` for 0.5 s",
                play,
                ("nats",),
                ("nats",),
                lambda _: NatsServer(config=permissions()),
            )


_register()
