"""The story that both brokers' ``run_local`` tell: orders, a crash, and a restart that nobody notices."""

import asyncio
import signal
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import count

from examples.order_cluster.messages import PlaceOrder
from examples.order_cluster.processes import PATIENCE, Answer, Processes

from catga import CatgaError, DistributedMediator
from catga.node import LeftReason

NODES = ("order-1", "order-2", "order-3")
CUSTOMERS = ("ann", "bob", "cleo", "dan", "eve", "fay", "gus", "hal")

_numbers = count(1)


class DidNotHoldError(Exception):
    """The cluster did not do what the story says."""


def check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise DidNotHoldError(otherwise)


async def tell(app: str, url: str, observer: DistributedMediator) -> int:
    """Run the story with the nodes and the gateway of `app`, a module; returns the exit status."""
    story = asyncio.current_task()
    assert story is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, story.cancel)
    async with observer:
        processes = Processes(app, url, observer)
        try:
            await start(processes)
            owners = await orders_by_key(processes)
            await crash(processes, owners)
            await come_back(processes, owners)
            await leave(processes)
            await stop(processes)
        except (DidNotHoldError, CatgaError, AssertionError, OSError, ValueError) as error:
            print(f"DID NOT HOLD: {error!r}\n{processes.logs}", flush=True)
            return 1
        finally:
            await processes.close()
    print("All of it held.")
    return 0


# -- the parts ----------------------------------------------------------------------------------------


async def start(processes: Processes) -> None:
    starting = (processes.start_gateway(), *map(processes.start_node, NODES))
    for error in filter(None, await asyncio.gather(*starting, return_exceptions=True)):
        raise error
    await processes.gateway_sees(*NODES)
    tell_of("Three nodes and a gateway, a process each, have joined")


async def orders_by_key(processes: Processes) -> Mapping[str, str]:
    """Who takes the orders of whom."""
    owners = takers(await order(processes, CUSTOMERS * 2))
    tell_of("Two orders of each customer: the customer's name says where they go", *table(owners))
    check(set(owners.values()) == set(NODES), "not every node took an order")
    return owners


async def crash(processes: Processes, owners: Mapping[str, str]) -> None:
    booked = PlaceOrder("before-the-crash", next(c for c in CUSTOMERS if owners[c] == "order-2"), "tea", 1)
    receipt = (await processes.post(booked)).body
    flow = await orders_under_way(processes)
    reason, _ = await processes.end("order-2", signal.SIGKILL)
    check(reason is LeftReason.CRASHED, f"order-2 left because of {reason}")
    served = len(await flow)
    await processes.gateway_sees("order-1", "order-3")
    now = takers(await order(processes, CUSTOMERS))
    tell_of(f"order-2 was killed while {served} orders came: none failed, and only its customers moved", *table(now))
    for customer, owner in owners.items():
        moved = now[customer] != owner
        check(moved == (owner == "order-2"), f"{customer} went from {owner} to {now[customer]}")
    again = await processes.post(booked)
    check(again.status == 201 and again.body == receipt, f"the same order again: {again}, not {receipt}")
    tell_of(f"An order that {receipt['taken_by']} had booked came again: {again.node} gave the same receipt")


async def come_back(processes: Processes, owners: Mapping[str, str]) -> None:
    await processes.start_node("order-2")
    await processes.gateway_sees(*NODES)
    now = takers(await order(processes, CUSTOMERS))
    check(now == owners, f"the customers went to {now}, not to {owners} as before")
    tell_of("order-2 was started again: its customers came back to it")


async def leave(processes: Processes) -> None:
    flow = await orders_under_way(processes)
    reason, status = await processes.end("order-3", signal.SIGTERM)
    check((reason, status) == (LeftReason.DRAINED, 0), f"order-3 left because of {reason}, with status {status}")
    await processes.start_node("order-3")
    served = len(await flow)
    tell_of(f"order-3 was restarted by SIGTERM while {served} orders came: it finished its own, and none failed")


async def stop(processes: Processes) -> None:
    reason, _ = await processes.end("gateway", signal.SIGTERM)  # uvicorn ends as the signal says
    check(reason is LeftReason.DRAINED, f"the gateway left because of {reason}")
    for name in NODES:
        reason, status = await processes.end(name, signal.SIGTERM)
        check((reason, status) == (LeftReason.DRAINED, 0), f"{name} left because of {reason}, with status {status}")
    tell_of("All were stopped by SIGTERM, and left in good order")


# -- how ----------------------------------------------------------------------------------------------


async def order(
    processes: Processes, customers: Sequence[str], first: asyncio.Event | None = None
) -> list[tuple[str, Answer]]:
    """An order of each, a few at a time; none may fail. `first` is set when one is answered."""

    async def place(customer: str) -> Answer:
        answer = await processes.post(PlaceOrder(f"o{next(_numbers)}", customer, "tea", 1))
        if first is not None:
            first.set()
        return answer

    answers = await asyncio.gather(*map(place, customers))
    failed = [answer for answer in answers if answer.status != 201]
    check(not failed, f"{len(failed)} of {len(answers)} orders failed: {failed[:1]}")
    return list(zip(customers, answers, strict=True))


async def orders_under_way(processes: Processes) -> "asyncio.Task[list[tuple[str, Answer]]]":
    """Many orders, of which one is answered and most are to come."""
    first = asyncio.Event()
    flow = asyncio.create_task(order(processes, CUSTOMERS * 12, first))
    async with asyncio.timeout(PATIENCE):
        await first.wait()
    return flow


def takers(answers: Iterable[tuple[str, Answer]]) -> Mapping[str, str]:
    """The one node that took each customer's orders."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for customer, answer in answers:
        found[customer].add(answer.body["taken_by"])
    check(all(len(nodes) == 1 for nodes in found.values()), f"one customer's orders were spread: {dict(found)}")
    return {customer: nodes.pop() for customer, nodes in found.items()}


def table(owners: Mapping[str, str]) -> list[str]:
    """A line for each node."""
    return [f"{n}: {', '.join(c for c in owners if owners[c] == n)}" for n in sorted(set(owners.values()))]


def tell_of(title: str, *lines: str) -> None:
    print(f"{title}.", *(f"    {line}" for line in lines), sep="\n", flush=True)
