"""What every worker and caller of the RPC benchmark does; the standard library and uvloop alone.

A worker prints ``ready`` and serves until it is killed. A caller prints ``ready``, then answers each line of
JSON (``concurrency``, ``size``, ``seconds``) with a line of JSON (calls, errors, latencies).
"""

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path

import uvloop

WARM_UP = 0.15
TIMEOUT = 5.0

role, url = sys.argv[1], sys.argv[2]
variant = sys.argv[3] if len(sys.argv) > 3 else ""


async def for_ever():
    """A worker's main part."""
    print("ready", flush=True)
    await asyncio.Event().wait()


async def answer(call):
    """A caller's main part. Args: call: async function of a payload (str of ASCII)."""
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        order = json.loads(line)
        payload = "x" * order["size"]
        await load(call, payload, order["concurrency"], WARM_UP)
        print(json.dumps(await load(call, payload, order["concurrency"], order["seconds"])), flush=True)


async def load(call, payload, concurrency, seconds):
    """Call from `concurrency` loops for `seconds`; latencies are milliseconds."""
    latencies, errors = [], []
    clock = time.perf_counter
    cpu = time.process_time()
    start = clock()
    end = start + seconds

    async def loop():
        now = clock()
        while now < end:
            before = now
            try:
                await call(payload)
            except Exception as error:
                errors.append(repr(error)[:200])
            now = clock()
            latencies.append(now - before)

    await asyncio.gather(*(loop() for _ in range(concurrency)))
    took = clock() - start
    cpu = time.process_time() - cpu
    latencies.sort()
    return {
        "calls": len(latencies) - len(errors),
        "errors": len(errors),
        "error": errors[0] if errors else "",
        "seconds": took,
        "cpu": cpu,
        "p50": latencies[len(latencies) // 2] * 1000,
        "p99": latencies[int(len(latencies) * 0.99)] * 1000,
    }


def sample_cpu(path):
    """Count the functions in which CPU time is spent; SIGUSR1 writes the counts (JSON) to `path`."""
    counts = {}

    def count(_, frame):
        name = f"{frame.f_code.co_filename}:{frame.f_code.co_qualname}" if frame else ""
        counts[name] = counts.get(name, 0) + 1

    def write(*_):
        Path(path + ".new").write_text(json.dumps(counts))
        Path(path + ".new").rename(path)

    signal.signal(signal.SIGPROF, count)
    signal.signal(signal.SIGUSR1, write)
    signal.setitimer(signal.ITIMER_PROF, 0.001, 0.001)


def main(worker, caller):
    """Run `worker` or `caller`, both async functions of the broker's URL."""
    if os.environ.get("BENCH_PROFILE"):
        sample_cpu(f"{os.environ['BENCH_PROFILE']}.{role}")
    uvloop.run((worker if role == "worker" else caller)(url))
