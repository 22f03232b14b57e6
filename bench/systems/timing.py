"""Interleaved CPU timing of awaited calls; the standard library alone, as every peer's environment runs it."""

import asyncio
import gc
import json
import sys
import time


async def handler(x):
    """The handler that all systems call."""
    return x


class Message:
    """A message for the baseline."""


async def plain(n):
    """The baseline: the handler alone."""
    message, call = Message(), handler
    for _ in range(n):
        await call(message)


async def three(n):
    """The baseline of publish: three handlers, one after the other."""
    message, a, b, c = Message(), handler, handler, handler
    for _ in range(n):
        await a(message)
        await b(message)
        await c(message)


def repeated(call, message):
    """A case: ``await call(message)`` again and again."""

    async def case(n):
        # Locals, as the baseline has them.
        send, what = call, message
        for _ in range(n):
            await send(what)

    return case


def main(cases, setup=None):
    """Time `cases` (name → async function of the number of calls) and print JSON: name → ns a call, a round each."""
    rounds, calls = int(sys.argv[1]), int(sys.argv[2])

    async def measure():
        if setup is not None:
            await setup()
        every = {"await": plain, "three awaits": three, **cases}
        found = {name: [] for name in every}
        for case in every.values():
            await case(100)
        gc.collect()
        gc.freeze()
        for _ in range(rounds):
            for name, case in every.items():
                start = time.process_time_ns()
                await case(calls)
                found[name].append((time.process_time_ns() - start) / calls)
        return found

    print(json.dumps(asyncio.run(measure())))
