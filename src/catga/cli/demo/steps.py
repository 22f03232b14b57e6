"""The steps of the demo. Each returns what it measured, or raises `StepFailedError`."""

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

from catga import ConsistentHash, Failure, Mediator, NodeChangeType, add_cluster
from catga.cli.demo.app import CountNews, PriceChanged, Reserve, Resize
from catga.cli.demo.stage import Call, Stage, flow, require
from catga.errors import NodeNotFoundError
from catga.node import LeftReason


async def joining(stage: Stage) -> str:
    """Three processes start, and the caller sees them join."""
    start = time.monotonic()
    await asyncio.gather(*map(stage.start_node, ("alpha", "beta", "gamma")))
    joined = [await stage.saw(NodeChangeType.JOINED, node_id) for node_id in stage.nodes]
    members = [node.node_id for node in stage.caller.get_nodes()]
    require(members == ["alpha", "beta", "caller", "gamma"], f"the members are {members}")
    last = max(at for _, at in joined) - start
    return f"{', '.join(stage.nodes)} were members {last:.2f} s after their processes were started"


async def round_robin(stage: Stage) -> str:
    """Requests go to each node in turn."""
    start = time.monotonic()
    results = await stage.caller.send_batch(Resize(f"image-{number}") for number in range(600))
    rate = len(results) / (time.monotonic() - start)
    shares = Counter(result.unwrap() for result in results)
    require(sorted(shares.values()) == [200, 200, 200], f"600 requests were shared as {each(shares)}")
    return f"{each(shares)}; {rate:.0f} a second, 64 at once, with handlers of 10 ms"


async def by_key(stage: Stage) -> str:
    """Requests with one key go to one node, whoever sends them."""
    orders = [Reserve(f"sku-{number}") for number in range(300)]
    choices: list[str] = []
    for sender in ("shop", "office"):
        async with add_cluster(Mediator(), stage.url, node_id=sender, routing=ConsistentHash()) as caller:
            choices += [result.unwrap() for result in await caller.send_batch(orders * 2)]
    require(choices == choices[:300] * 4, "the same key went to different nodes")
    return f"300 keys, sent twice by each of two senders: one node each; {each(Counter(choices[:300]))}"


async def to_one_node(stage: Stage) -> str:
    """send_to_node reaches the node that it names."""
    for node_id in stage.nodes:
        ran = (await stage.caller.send_to_node(Resize("image"), node_id)).unwrap()
        require(ran == node_id, f"what was sent to {node_id} ran on {ran}")
    stray = await stage.caller.send_to_node(Resize("image"), "nobody")
    require(isinstance(stray, Failure) and isinstance(stray.error, NodeNotFoundError), f"sent to nobody: {stray}")
    return f"{', '.join(stage.nodes)} each ran its own; to nobody: NodeNotFoundError"


async def news(stage: Stage) -> str:
    """publish reaches one node of the service, broadcast reaches every node."""

    async def heard() -> list[int]:
        return [(await stage.caller.send_to_node(CountNews(), node_id)).unwrap() for node_id in stage.nodes]

    (await stage.caller.publish(PriceChanged("sku-1"))).unwrap()
    published = await heard()
    acknowledged, failed = await stage.caller.broadcast(PriceChanged("sku-1"))
    broadcast = [after - before for before, after in zip(published, await heard(), strict=True)]
    require(sum(published) == 1, f"publish was heard {published} times")
    require(broadcast == [1, 1, 1] and not failed, f"broadcast was heard {broadcast} times; failed: {failed}")
    return f"publish was heard {published} times, broadcast {broadcast}; all acknowledged it: {', '.join(acknowledged)}"


async def leaving(stage: Stage) -> str:
    """A node leaves while requests flow, and no request fails."""
    async with flow(stage.caller) as calls:
        asked = time.monotonic()
        status = await stage.end_node("gamma")
        left, at = await stage.saw(NodeChangeType.LEFT, "gamma")
    require(status == 0 and left.reason is LeftReason.DRAINED, f"exit status {status}, {left.reason}")
    return f"left(drained) {milliseconds(at - asked)} after it was told to; {account(calls)}"


async def crashing(stage: Stage) -> str:
    """A node is killed with SIGKILL while requests flow, and no request fails."""
    async with flow(stage.caller) as calls:
        stage.nodes["beta"].kill()
        killed = time.monotonic()
        left, at = await stage.saw(NodeChangeType.LEFT, "beta")
    require(left.reason is LeftReason.CRASHED, f"the reason is {left.reason}")
    moved = [call.sent for call in calls if call.attempts > 1]
    last = max(moved, default=killed) - killed
    late = {call.node_id for call in calls if call.sent > killed + max(last, 0.0)}
    require(late == {"alpha"}, f"long after the kill requests ran on {late}")
    return (
        f"{len(moved)} requests were moved to a living node, none sent later than {milliseconds(max(last, 0.0))} "
        f"after the kill; left(crashed) after {at - killed:.1f} s; {account(calls)}"
    )


STEPS: Sequence[tuple[str, Callable[[Stage], Awaitable[str]]]] = (
    ("Three processes start, and the caller sees them join", joining),
    ("Requests go to each node in turn", round_robin),
    ("Requests with one key go to one node, whoever sends them", by_key),
    ("send_to_node reaches the node that it names", to_one_node),
    ("publish reaches one node of the service, broadcast reaches every node", news),
    ("A node leaves while requests flow, and no request fails", leaving),
    ("A node is killed with SIGKILL while requests flow, and no request fails", crashing),
)


# -- how it is told -----------------------------------------------------------------------------------


def account(calls: Sequence[Call]) -> str:
    """How many, how fast. Raises `StepFailedError` if one failed."""
    failed = [call.error for call in calls if call.error]
    require(not failed, f"{len(failed)} of {len(calls)} requests failed, one with {failed[:1]}")
    times = [call.took for call in calls]
    median, slowest = milliseconds(statistics.median(times)), milliseconds(max(times))
    return f"{len(calls)} requests, 0 failed, median {median}, slowest {slowest}"


def each(shares: Counter[str]) -> str:
    """Each node with its count."""
    return ", ".join(f"{node_id} {count}" for node_id, count in sorted(shares.items()))


def milliseconds(seconds: float) -> str:
    """`seconds` for a reader."""
    return f"{seconds * 1000:.0f} ms" if seconds >= 0.01 else f"{seconds * 1000:.1f} ms"
